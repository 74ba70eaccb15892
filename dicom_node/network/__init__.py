"""DIMSE, both ways; the only place that knows pynetdicom."""
