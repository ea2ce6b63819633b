// Package awskms stands in for the key wrapper of that name, which would bring
// its cloud's SDK along. The Vault of the tests has a Shamir seal: nothing
// here is called, but Vault's configuration code refers to it by name.
package awskms

import wrapping "github.com/hashicorp/go-kms-wrapping/v2"

const (
	EnvVaultAwsKmsSealKeyId = "EnvVaultAwsKmsSealKeyId"
	EnvAwsKmsWrapperKeyId   = "EnvAwsKmsWrapperKeyId"
)

// NewWrapper returns a wrapper that can do nothing.
func NewWrapper() wrapping.Wrapper { return nil }

// WithLogger is an option that sets nothing. Vault gives it to its Shamir
// seal, too.
func WithLogger(any) wrapping.Option { return nothing }

// WithDisallowEnvVars is an option that sets nothing.
func WithDisallowEnvVars(bool) wrapping.Option { return nothing }

func nothing() any { return wrapping.OptionFunc(func(*wrapping.Options) error { return nil }) }
