"""Does a checkpoint look at blood, or at what happens to go with it? `python -m train audit`; docs/audit.md."""

PARTS = ("probes", "stability", "counterfactuals", "phantoms", "implants", "pointing")
WITHOUT_BLEEDING = ("phantoms", "implants")
"""Those that need no bleeding patients."""
