// Package ocikms stands in for the key wrapper of that name, which would bring
// its cloud's SDK along. The Vault of the tests has a Shamir seal: nothing
// here is called, but Vault's configuration code refers to it by name.
package ocikms

import wrapping "github.com/hashicorp/go-kms-wrapping/v2"

const (
	EnvOciKmsWrapperCryptoEndpoint       = "EnvOciKmsWrapperCryptoEndpoint"
	EnvVaultOciKmsSealCryptoEndpoint     = "EnvVaultOciKmsSealCryptoEndpoint"
	EnvOciKmsWrapperKeyId                = "EnvOciKmsWrapperKeyId"
	EnvVaultOciKmsSealKeyId              = "EnvVaultOciKmsSealKeyId"
	EnvOciKmsWrapperManagementEndpoint   = "EnvOciKmsWrapperManagementEndpoint"
	EnvVaultOciKmsSealManagementEndpoint = "EnvVaultOciKmsSealManagementEndpoint"
	KmsConfigKeyId                       = "KmsConfigKeyId"
	KmsConfigCryptoEndpoint              = "KmsConfigCryptoEndpoint"
	KmsConfigManagementEndpoint          = "KmsConfigManagementEndpoint"
)

// NewWrapper returns a wrapper that can do nothing.
func NewWrapper() wrapping.Wrapper { return nil }
