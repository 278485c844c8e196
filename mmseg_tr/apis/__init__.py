"""One file or folder per verb: train, test, infer, compare, tune, show, report, benchmark, export, demo.

Each module asks for the extra that it needs when it is imported. Errors name the parameters of the function called;
the command line (mmseg_tr.cli) puts its options in their place.
"""
