# The machine on EC2. Staged only for `--target ami`.

variable "region" {
  type        = string
  description = "AWS region to bake in."
}

variable "source_ami" {
  type        = string
  description = "The AMI to start from, resolved and pinned by builder before Packer runs."
}

variable "ami_name" {
  type        = string
  description = "Name of the new AMI; must not be taken."
}

variable "instance_type" {
  type        = string
  default     = "t3.small"
  description = "Instance that is baked."
}

variable "subnet_id" {
  type        = string
  default     = ""
  description = "Subnet of the instance; empty for the default VPC."
}

variable "ssh_interface" {
  type        = string
  default     = ""
  description = "Address that Packer connects to: public_ip or private_ip; empty for what is there."
}

variable "ssh_source_cidrs" {
  type        = list(string)
  description = "Who may reach the instance's SSH port during the bake: the caller's address."
}

variable "user_data_file" {
  type        = string
  description = "The bake's cloud-config, at most 16 KB."
}

variable "tags" {
  type        = map(string)
  default     = {}
  description = "Tags of the AMI, its snapshots and everything that the bake creates."
}

variable "encrypt_boot" {
  type        = bool
  default     = false
  description = "Whether the AMI's snapshot is encrypted with the account's default key."
}

variable "endpoint" {
  type        = string
  default     = ""
  description = "A private EC2 endpoint. Packer 1.7 and newer also need AWS_ENDPOINT_URL_EC2, which builder sets."
}

variable "skip_checks" {
  type        = bool
  default     = false
  description = "Do not ask the endpoint for regions and credentials: for private and local endpoints."
}

variable "ssh_host" {
  type        = string
  default     = ""
  description = "Connect here instead of to the instance's own address."
}

variable "ssh_port" {
  type        = number
  default     = 22
  description = "Port of SSH."
}

variable "poll_seconds" {
  type        = number
  default     = 5
  description = "How often to ask whether the AMI is ready."
}

source "amazon-ebs" "relay" {
  region        = var.region
  source_ami    = var.source_ami
  instance_type = var.instance_type
  subnet_id     = var.subnet_id
  ami_name      = var.ami_name
  encrypt_boot  = var.encrypt_boot

  user_data_file = var.user_data_file
  # A bake that is killed half-way leaves an instance behind; one that turns itself off is then gone.
  shutdown_behavior = "terminate"

  tags            = var.tags
  snapshot_tags   = var.tags
  run_tags        = var.tags
  run_volume_tags = var.tags

  temporary_security_group_source_cidrs = var.ssh_source_cidrs

  # Half an hour, whatever the interval: a large AMI is ready minutes after Packer's default gives up.
  aws_polling {
    delay_seconds = var.poll_seconds
    max_attempts  = ceil(1800 / var.poll_seconds)
  }

  custom_endpoint_ec2        = var.endpoint
  skip_region_validation     = var.skip_checks
  skip_credential_validation = var.skip_checks
  skip_metadata_api_check    = var.skip_checks

  communicator         = "ssh"
  ssh_username         = var.ssh_username
  ssh_private_key_file = var.ssh_private_key_file
  ssh_interface        = var.ssh_interface
  ssh_host             = var.ssh_host
  ssh_port             = var.ssh_port
  ssh_timeout          = var.ssh_timeout
}
