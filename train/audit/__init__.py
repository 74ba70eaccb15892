"""Does a checkpoint look at blood, or at what happens to go with it? `python -m train audit`; docs/audit.md."""

PARTS = ("probes", "stability", "counterfactuals", "phantoms", "pointing")
