// Package azurekeyvault stands in for the key wrapper of that name, which would bring
// its cloud's SDK along. The Vault of the tests has a Shamir seal: nothing
// here is called, but Vault's configuration code refers to it by name.
package azurekeyvault

import wrapping "github.com/hashicorp/go-kms-wrapping/v2"

const (
	EnvAzureKeyVaultWrapperKeyName   = "EnvAzureKeyVaultWrapperKeyName"
	EnvVaultAzureKeyVaultKeyName     = "EnvVaultAzureKeyVaultKeyName"
	EnvAzureKeyVaultWrapperVaultName = "EnvAzureKeyVaultWrapperVaultName"
	EnvVaultAzureKeyVaultVaultName   = "EnvVaultAzureKeyVaultVaultName"
)

// NewWrapper returns a wrapper that can do nothing.
func NewWrapper() wrapping.Wrapper { return nil }

// WithDisallowEnvVars is an option that sets nothing.
func WithDisallowEnvVars(bool) wrapping.Option { return nothing }

func nothing() any { return wrapping.OptionFunc(func(*wrapping.Options) error { return nil }) }
