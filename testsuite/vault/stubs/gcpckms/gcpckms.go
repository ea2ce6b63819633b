// Package gcpckms stands in for the key wrapper of that name, which would bring
// its cloud's SDK along. The Vault of the tests has a Shamir seal: nothing
// here is called, but Vault's configuration code refers to it by name.
package gcpckms

import wrapping "github.com/hashicorp/go-kms-wrapping/v2"

const (
	EnvGcpCkmsWrapperCredsPath   = "EnvGcpCkmsWrapperCredsPath"
	EnvGcpCkmsWrapperProject     = "EnvGcpCkmsWrapperProject"
	EnvGcpCkmsWrapperLocation    = "EnvGcpCkmsWrapperLocation"
	EnvVaultGcpCkmsSealCryptoKey = "EnvVaultGcpCkmsSealCryptoKey"
	EnvGcpCkmsWrapperCryptoKey   = "EnvGcpCkmsWrapperCryptoKey"
	EnvGcpCkmsWrapperKeyRing     = "EnvGcpCkmsWrapperKeyRing"
	EnvVaultGcpCkmsSealKeyRing   = "EnvVaultGcpCkmsSealKeyRing"
)

// NewWrapper returns a wrapper that can do nothing.
func NewWrapper() wrapping.Wrapper { return nil }
