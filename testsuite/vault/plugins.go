package main

import (
	"maps"
	"slices"

	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/database"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/ssh"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/plugins/database/postgresql"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
)

// builtin are the engines and logins that can be mounted; token, cubbyhole,
// identity and sys are part of Vault's core. Each further one costs time to
// compile.
var builtin = map[consts.PluginType]map[string]any{
	consts.PluginTypeCredential: {
		"approle":    logical.Factory(approle.Factory),
		"cert":       logical.Factory(cert.Factory),
		"jwt":        logical.Factory(jwt.Factory),
		"kubernetes": logical.Factory(kubernetes.Factory),
		"userpass":   logical.Factory(userpass.Factory),
	},
	consts.PluginTypeSecrets: {
		"pki":     logical.Factory(pki.Factory),
		"ssh":     logical.Factory(ssh.Factory),
		"transit": logical.Factory(transit.Factory),
	},
	consts.PluginTypeDatabase: {
		"postgresql-database-plugin": postgresql.New,
	},
}

// mounted are engines that Vault doesn't treat as plugins.
var mounted = map[string]logical.Factory{
	"database": database.Factory,
	"kv":       kv.Factory,
}

// plugins shows builtin to Vault.
type plugins struct{}

func (plugins) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	p, ok := builtin[kind][name]
	if f, isDatabase := p.(func() (any, error)); isDatabase {
		return f, ok
	}
	return func() (any, error) { return p, nil }, ok
}

func (plugins) Contains(name string, kind consts.PluginType) bool {
	_, ok := builtin[kind][name]
	return ok
}

func (plugins) Keys(kind consts.PluginType) []string {
	return slices.Sorted(maps.Keys(builtin[kind]))
}

func (plugins) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	_, ok := builtin[kind][name]
	return consts.Supported, ok
}

func (plugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
