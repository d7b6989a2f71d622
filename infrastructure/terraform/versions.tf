terraform {
  required_version = "~> 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "6.69.1"
    }
  }

  # The bucket, key and lock of each environment's state: environments/*/backend.hcl.
  backend "s3" {}
}

provider "aws" {
  region              = local.account.region
  allowed_account_ids = [local.account.account_id]

  default_tags {
    tags = {
      project     = "srl-rlvr"
      environment = var.environment
      cost-centre = local.account.cost_centre
      managed-by  = "terraform"
    }
  }
}
