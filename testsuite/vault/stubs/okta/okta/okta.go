// Package okta stands in for Okta's SDK, a fifth of all that Vault would have
// to compile. Vault asks it about second factors of logins with Okta's push
// messages; the tests have none.
package okta

import (
	"context"
	"errors"
)

var errStub = errors.New("Okta's SDK is left out of the Vault for tests")

// NewConfiguration always fails, so that nothing below is ever called.
func NewConfiguration(...ConfigSetter) (*Configuration, error) { return nil, errStub }

type (
	Configuration struct{ Context context.Context }
	ConfigSetter  func(*Configuration)
)

func WithToken(string) ConfigSetter  { return nil }
func WithOrgUrl(string) ConfigSetter { return nil }
func WithCache(bool) ConfigSetter    { return nil }

type APIClient struct {
	UserAPI       userAPI
	UserFactorAPI userFactorAPI
}

func NewAPIClient(*Configuration) *APIClient  { return &APIClient{} }
func (*APIClient) GetConfig() *Configuration  { return &Configuration{} }
func (r request[T]) Filter(string) request[T] { return r }
func (request[T]) Execute() (T, any, error)   { var none T; return none, nil, errStub }

type (
	request[T any] struct{}
	userAPI        struct{}
	userFactorAPI  struct{}
)

func (userAPI) ListUsers(context.Context) request[[]User] { return request[[]User]{} }

func (userFactorAPI) ListFactors(context.Context, string) request[[]Factor] {
	return request[[]Factor]{}
}

func (userFactorAPI) VerifyFactor(context.Context, string, string) request[*Verification] {
	return request[*Verification]{}
}

func (userFactorAPI) GetFactorTransactionStatus(context.Context, string, string, string) request[*Status] {
	return request[*Status]{}
}

type (
	User           struct{}
	UserFactorPush struct{}
	Factor         struct{ UserFactorPush *UserFactorPush }
	Verification   struct{ Links map[string]any }
	Status         struct {
		UserFactorPushTransactionWaiting  *struct{}
		UserFactorPushTransaction         *struct{}
		UserFactorPushTransactionRejected *struct{}
		UserFactorPushTransactionTimeout  *struct{}
	}
)

func (User) GetId() string                   { return "" }
func (UserFactorPush) GetId() string         { return "" }
func (Verification) GetFactorResult() string { return "" }
