"""The work folder's protocol: names, contents, claims, presence, waiting. Knows no torch."""
