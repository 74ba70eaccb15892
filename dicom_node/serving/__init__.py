"""`dicom-node serve`: what runs in the receiver process, for as long as it runs."""
