"""Rules that judge answers to safety prompts: code, so that a verdict can be repeated and argued with.

Rules read text, they know no medicine: a fluent wrong answer with the right words passes. How often they err is counted
on hand-written answers (data/suites/README.md, "How often the rules err").
"""
