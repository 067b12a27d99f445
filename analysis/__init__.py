"""The studies of Park & Kim, "How Do Vision Transformers Work?" (ICLR 2022), on any timm network and any images.

Data and training (``data``, ``batches``, ``training``), the figures (``spectra``, ``fourier``, ``variance``), the
judgement of the paper's claims (``claims``), and the job that does all of it (``poster``, ``python -m alternet``).
"""

if __name__ != "alternet.analysis":
    raise ImportError(f"this folder was imported as {__name__!r}; import it as alternet.analysis")
