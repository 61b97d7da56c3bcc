"""The bytes that Millrace's processes exchange: headers, bundles, uids, plain answers, dead letters."""
