"""Attacks on the running code, each with a figure and a limit: `tacit audit`.

A sound system passes a whole run with probability above 1 − 10⁻⁴; ``docs/audit.md`` says what each attack can see and
what not. Audits call the code that rounds call, never a copy of it, so that a defect there is a breach here.
"""
