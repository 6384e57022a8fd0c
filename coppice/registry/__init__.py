"""Tasks, data sets, architectures, models and scores in a store, worked on by work orders."""
