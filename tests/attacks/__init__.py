"""Real processes and a real HDFS under attack: whatever happens, the run comes out the same."""
