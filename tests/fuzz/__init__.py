"""Coverage-guided fuzzing of every decoder that sees foreign bytes.

``python -m tests.fuzz TARGET --seconds 60`` looks for input that breaks a decoder's promise: it reads, or it refuses
with the error that it documents, and what it read it writes again as it was. What was found is kept in ``corpus/`` and
replayed by the tests, which need no fuzzer.
"""
