"""The tabular twin: recorded and predicted evaluations of every network of a space, thousands of steps a second."""
