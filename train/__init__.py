"""Training of DTViT. Depends on `dtvit`, never on `dicom_node`; runs where neither pydicom nor pydantic is installed."""
