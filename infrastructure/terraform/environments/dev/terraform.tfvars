environment          = "dev"
consumer_account_ids = ["444455556666"]
alert_emails         = ["ml-dev@example.com"]
