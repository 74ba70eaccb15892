"""Training of DTViT. Depends on `dtvit`, never on `dicom_node`.

Runs where neither pydicom nor pydantic is installed, so that it can be taken to a bare GPU machine.
"""
