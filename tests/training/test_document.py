"""Every page is one file that needs nothing beside it, and what comes from outside stays words in it."""

import csv
import io
from html.parser import HTMLParser

import pytest

from train.document import Heading, Image, Items, Table, Text, Tiles, markdown, rendered

HOSTILE = """<script src="x">'&amp;</script>"""


class Read(HTMLParser):
    """A page as a browser takes it: words, and tags with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags = [], []
        self.feed(page.decode())

    def handle_data(self, data):
        self.words.append(data)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@pytest.mark.parametrize(
    ("block", "times"),
    [
        (HOSTILE, 1),
        (Text(HOSTILE, "soft"), 1),
        (Heading(2, HOSTILE), 1),
        (Items([(HOSTILE, HOSTILE), ("", HOSTILE)], boxed=True), 3),
        (Tiles([(Text(HOSTILE, "why", HOSTILE), HOSTILE)]), 3),
        (Image("x.png", b"PNG", HOSTILE), 1),
        (Table(HOSTILE, (HOSTILE, Text(HOSTILE, "words")), [(HOSTILE, Text(HOSTILE, "why", HOSTILE))], HOSTILE), 7),
    ],
    ids=lambda value: type(value).__name__,
)
def test_outside_text_is_escaped_in_every_block(block, times):
    page = Read(rendered(HOSTILE, [block]))
    assert "".join(page.words).count(HOSTILE) == times + 1  # the title
    assert "script" not in {tag for tag, _ in page.tags}
    assert [each["alt"] for tag, each in page.tags if tag == "img"] == [HOSTILE] * isinstance(block, Image)


def test_a_page_needs_no_network():
    page = rendered("x", [Image("x.png", b"PNG", "y"), Table("t", ("a",), [("b",)], name="t")])
    asked = [value for _, each in Read(page).tags for key, value in each.items() if key in ("src", "href")]
    assert asked == ["data:image/png;base64,UE5H"]
    assert not [word for word in (b"url(", b"@import", b"http") if word in page]


def test_a_command_is_code_and_a_backtick_of_a_cell_a_backtick():
    paragraph = "Made by `reproduce <x>` now."
    assert "<p>Made by <code>reproduce &lt;x&gt;</code> now.</p>" in rendered("x", [paragraph]).decode()
    assert markdown([paragraph]) == b"Made by `reproduce <x>` now.\n"
    assert "<td>`x`</td>" in rendered("x", [Table("", ("",), [("`x`",)])]).decode()


def test_both_forms_and_the_csv_have_the_same_words():
    table = Table("Title", ("", "AUC"), [("slices", Text("0.9", beside="0.8 to 1.0"))], "Note.", "figures")
    blocks = [Items([("Word", "sentence"), ("", "alone")]), Tiles([(Text("0.9", beside="0.8 to 1"), "AUC")]), table]
    assert markdown(blocks).decode() == (
        "- **Word.** sentence\n- alone\n\n- AUC: 0.9 0.8 to 1\n\n"
        "**Title** ([CSV](figures.csv))\n\n|  | AUC |\n| --- | --- |\n| slices | 0.9 0.8 to 1.0 |\n\nNote.\n"
    )
    assert list(csv.reader(io.StringIO(table.to_csv().decode()))) == [["", "AUC"], ["slices", "0.9 0.8 to 1.0"]]
    page = rendered("x", blocks).decode()
    for said in ("<b>Word.</b> sentence", "<li>alone", "0.9 <small>0.8 to 1.0</small></td>", "Title <small>Note."):
        assert said in page


def test_a_table_of_many_columns_gets_a_wider_page():
    pages = [rendered("x", [Table("", ("a",) * number, [])]).decode() for number in (8, 9)]
    assert ['<body class="wide">' in page for page in pages] == [False, True]
