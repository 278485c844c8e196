"""One file or folder per verb: train, test, infer, compare, tune, show, report, benchmark, export, demo.

Each module checks for its extra when it is imported. Errors name the parameters of the function called;
the command line (mmseg_tr.cli) translates them to options.
"""
