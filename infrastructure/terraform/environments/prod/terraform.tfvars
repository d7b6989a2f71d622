environment          = "prod"
consumer_account_ids = ["777788889999"]
alert_emails         = ["ml-oncall@example.com"]
