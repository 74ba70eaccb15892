"""From folders of DICOM to pictures and a manifest that `train` reads (`dicom-node prepare`; docs/data.md).

`finding` looks at headers, `drawing` makes pictures of one series with the node's own preprocessing, `labelling` joins
a table of labels, `records` keeps what was made and under which ids; `preparing` puts them together.
"""

from dicom_node.preparing.preparing import Prepared, prepare

__all__ = ["Prepared", "prepare"]
