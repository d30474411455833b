"""Entropy coding: probability tables, the rANS coder and the integer networks that choose the tables.

Everything here is integer arithmetic on the decoding side. Needs numpy and the compiled modules, never torch.
"""
