"""The processes of a run: who watches over a script, and under `msrun` over all that run one model together."""
