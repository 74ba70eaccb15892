"""DTViT: a dual-task Vision Transformer for intracerebral hemorrhage on head CT, and what surrounds it.

One encoder, two heads: hemorrhage present or not, and deep, lobar or subtentorial (Fan et al., arXiv 2405.06814).
Nothing here knows that a DICOM node exists. Importing this package does not load torch; `dtvit.model` and
`dtvit.inference` do, and `dtvit.checkpoint` when it reads or writes weights.
"""
