"""The DICOM node: receives head CT, queues it durably, classifies it with DTViT, sends a Structured Report back."""

__version__ = "0.1.0"
