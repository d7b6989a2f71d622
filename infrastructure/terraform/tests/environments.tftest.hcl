# What an environment may not be, and what each must hold. Every run plans; nothing is created.
#
#     terraform test -var-file=environments/dev/terraform.tfvars

run "keeps_data_private_and_lets_checkpoints_and_served_traces_expire" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    context = {
      name            = "srl-rlvr-test"
      account         = "111122223333"
      region          = "us-east-1"
      partition       = "aws"
      pipeline_prefix = "srl-rlvr"
    }
    bucket               = { name = "example", prefix = "srl-rlvr" }
    image_registry       = "111122223333.dkr.ecr.us-east-1.amazonaws.com/srl-rlvr"
    kms_key_arn          = "arn:aws:kms:us-east-1:111122223333:key/example"
    consumer_account_ids = []
    checkpoint_days      = 14
    served_trace_days    = 30
    retention_days       = 365
  }

  assert {
    condition = alltrue(flatten([
      for block in aws_s3_bucket_public_access_block.this : [
        block.block_public_acls, block.block_public_policy, block.ignore_public_acls, block.restrict_public_buckets,
      ]
    ]))
    error_message = "A bucket can be made public."
  }

  assert {
    condition     = alltrue([for bucket in aws_s3_bucket_versioning.this : bucket.versioning_configuration[0].status == "Enabled"])
    error_message = "A bucket keeps no versions."
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule : rule.expiration[0].days
      if rule.filter[0].prefix == "srl-rlvr/checkpoints/"
    ] == [14]
    error_message = "Checkpoints do not expire after checkpoint_days."
  }

  assert {
    condition = [
      for rule in aws_s3_bucket_lifecycle_configuration.data.rule :
      [rule.expiration[0].days, rule.noncurrent_version_expiration[0].noncurrent_days]
      if rule.filter[0].prefix == "traces/served/"
    ] == [[30, 1]]
    error_message = "Served traces do not expire after served_trace_days, or live on as superseded versions."
  }

  assert {
    condition = alltrue([
      for repository in aws_ecr_repository.this :
      repository.image_tag_mutability == "IMMUTABLE" && repository.image_scanning_configuration[0].scan_on_push
    ])
    error_message = "A repository lets tags move or images in unscanned."
  }
}

run "refuses_an_unknown_environment" {
  command = plan

  variables {
    environment = "staging"
  }

  expect_failures = [var.environment]
}

run "refuses_images_of_another_account" {
  command = plan

  module {
    source = "./modules/storage"
  }

  variables {
    context = {
      name            = "srl-rlvr-test"
      account         = "111122223333"
      region          = "us-east-1"
      partition       = "aws"
      pipeline_prefix = "srl-rlvr"
    }
    bucket               = { name = "example", prefix = "srl-rlvr" }
    image_registry       = "444455556666.dkr.ecr.us-east-1.amazonaws.com/srl-rlvr"
    kms_key_arn          = "arn:aws:kms:us-east-1:111122223333:key/example"
    consumer_account_ids = []
    checkpoint_days      = 14
    served_trace_days    = 30
    retention_days       = 365
  }

  expect_failures = [var.image_registry]
}

run "refuses_the_same_zone_twice" {
  command = plan

  variables {
    zones = ["us-east-1a", "us-east-1a"]
  }

  expect_failures = [var.zones]
}

run "refuses_checkpoints_that_expire_during_a_run" {
  command = plan

  variables {
    checkpoint_days = 2
  }

  expect_failures = [var.checkpoint_days]
}

run "refuses_traces_that_expire_before_a_night_can_be_repeated" {
  command = plan

  variables {
    served_trace_days = 1
  }

  expect_failures = [var.served_trace_days]
}
