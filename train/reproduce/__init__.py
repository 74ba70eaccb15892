"""Both papers' experiments, with the truth beside them (`dicom-node reproduce`; docs/reproduce.md).

`planned` lists the rows, `rows` makes one and keeps it, `yardsticks` are what learns no hemorrhage, `papers` holds what
the papers say, `tables` and `curves` show it; `reproducing` puts them together, as a `train.document`.
"""
