"""From folders of DICOM to pictures and a manifest that `train` reads (`dicom-node prepare`; docs/data.md).

`finding` looks at headers, `drawing` makes pictures of one series with the node's own preprocessing, `labelling` joins
a table of labels, `records` keeps what was made and under which ids, `manifest` lists it; `preparing` puts them
together, and `prepared` says what came of it.
"""

from dicom_node.preparing.prepared import Prepared
from dicom_node.preparing.preparing import prepare

__all__ = ["Prepared", "prepare"]
