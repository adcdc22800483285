"""Run folders read, drawn and put on one HTML page; none of it needs torch or a network."""
