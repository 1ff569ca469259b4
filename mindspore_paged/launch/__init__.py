"""Processes that run one model together under `msrun`: who this process is, and who watches over all of them."""
