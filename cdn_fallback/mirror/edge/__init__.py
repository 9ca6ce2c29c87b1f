"""What a CDN's edge goes by: the rules of `negotiate` before a bucket, as texts for CloudFront and for nginx.

Values in, texts out: nothing here reads or writes. `cli.edge` brings the templates that lie in this folder.
"""
