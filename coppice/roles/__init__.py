"""The four jobs, each tying the work folder's protocol to searching or pruning; and all four as processes."""
