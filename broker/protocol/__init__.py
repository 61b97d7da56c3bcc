"""The bytes that our parts exchange: headers, bundles, uids, plain answers, dead letters."""
