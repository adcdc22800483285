"""What `experiments.reproduce` is made of.

scale.py      how large: data sets, teachers, recipes, seeds of laptop, gpu and paper
networks.py   the fixed networks: teachers and rivals of a budget group
contents.py   which rows and columns each table of the paper has
searches.py   meta-training and fine-tuning, kept in the run folder
finals.py     final trainings, pruning included, and their attacks
building.py   searches + finals → a table
results.py    all of it together → the files of the run folder
topology.py   what remains of a teacher in a student
drawing.py    searches → the paper's figures
outline.py    what a plan trains, in words
prices.py     what a pass through a network costs
estimate.py   how long a plan takes, and what the store has of it
reproduced.py a student of a finished run, to be delivered
"""
