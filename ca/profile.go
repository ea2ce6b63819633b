package ca

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca/krl"
)

// The caps on what a certificate can be. They stand in code: raising one is a
// change that somebody reviews.
const (
	// MaxLifetime bounds NotAfter - NotBefore.
	MaxLifetime = 24 * time.Hour

	// BackDate is how long before NotBefore a certificate is already valid,
	// so that a host whose clock is behind lets it in at once. It opens
	// nothing early, because the certificate doesn't exist before NotBefore.
	// It comes on top of MaxLifetime and doesn't move the end.
	BackDate = access.ClockSkew

	// MaxPrincipals is what OpenSSH can read: SSHKEY_CERT_MAX_PRINCIPALS in
	// its sshkey.h.
	MaxPrincipals = 256

	// MaxSourceAddresses bounds the list of one certificate.
	MaxSourceAddresses = 64

	// MinRSABits is the smallest RSA key that is certified, or certifies.
	MinRSABits = 3072
)

// The critical options that hallpass sets (PROTOCOL.certkeys).
const (
	forceCommand  = "force-command"
	sourceAddress = "source-address"
)

// Extensions lists the certificate extensions that policy may ask for, sorted.
// no-touch-required is not among them: it would weaken FIDO keys.
func Extensions() []string {
	return []string{
		"permit-X11-forwarding",
		"permit-agent-forwarding",
		"permit-port-forwarding",
		"permit-pty",
		"permit-user-rc",
	}
}

// subjectTypes are the keys that are certified. ssh-dss is missing, and so is
// every certificate type: x/crypto/ssh panics when it has to certify one.
var subjectTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKECDSA256,
	ssh.KeyAlgoRSA,
}

// Spec is what is asked of Prepare.
type Spec struct {
	Request    string        // the request's id, a UUIDv7
	Requester  string        // as the directory names him
	Principals []string      // each made by Principal; 1 to MaxPrincipals, no two the same
	PublicKey  ssh.PublicKey // the key to certify
	Serial     uint64        // from 1; the caller has recorded it
	NotBefore  time.Time     // whole seconds; at most access.ClockSkew ahead of the CA's clock
	NotAfter   time.Time     // whole seconds; the certificate is dead from here on
	Options    access.SSHOptions
	Command    string // the one command it may run; empty: Options decides
	Extends    string // the id of the request whose grant it extends; empty: none's
}

// Prepare checks a spec against the profile and composes the certificate,
// without touching the key. Refusals are *access.Error: CodeMalformed for a
// spec that can't be right, CodeForbidden for a subject key that may not be
// certified, CodeDenied for one that asks for more than the caps allow,
// CodeEnded for a grant that is over, and CodeUnavailable for one that has
// not begun.
func (c *CA) Prepare(s Spec) (*Prepared, error) {
	keyID, err := KeyID(s.Request, s.Requester)
	if err != nil {
		return nil, err
	}
	if !krl.Counted(s.Serial) {
		// Serial 0 can't be revoked by serial (PROTOCOL.krl), and a series without a
		// count isn't in the ledger.
		return nil, access.Errorf(access.CodeMalformed, "certificate serial is %d; serials begin at 1 in each series", s.Serial)
	}
	if err := checkPrincipals(s.Principals); err != nil {
		return nil, err
	}
	if err := checkSeries(s.Serial, s.Principals); err != nil {
		return nil, err
	}
	subject, err := c.checkSubject(s.PublicKey)
	if err != nil {
		return nil, err
	}
	if err := checkValidity(s.NotBefore, s.NotAfter, c.now(), MaxLifetime); err != nil {
		return nil, err
	}
	critical, err := criticalOptions(s.Options, s.Command)
	if err != nil {
		return nil, err
	}
	extensions, err := extensions(s.Options)
	if err != nil {
		return nil, err
	}
	if s.Extends != "" {
		if _, err := KeyID(s.Extends, s.Requester); err != nil {
			return nil, err
		}
		extensions[access.ExtensionExtends] = s.Extends
	}
	return &Prepared{ca: c, cert: ssh.Certificate{
		Key:             subject,
		Serial:          s.Serial,
		CertType:        ssh.UserCert,
		KeyId:           keyID,
		ValidPrincipals: slices.Clone(s.Principals),
		ValidAfter:      uint64(s.NotBefore.Add(-BackDate).Unix()),
		ValidBefore:     uint64(s.NotAfter.Unix()),
		Permissions:     ssh.Permissions{CriticalOptions: critical, Extensions: extensions},
	}}, nil
}

// checkPrincipals holds every principal to the form that Principal makes. That
// form has no comma, which OpenSSH before 10.3 takes for two principals in
// some places (CVE-2026-35414), and always has a slash, which no account's
// name has: a host without AuthorizedPrincipalsFile compares principals with
// account names, and so lets nobody in.
func checkPrincipals(principals []string) error {
	if len(principals) == 0 {
		return access.Errorf(access.CodeMalformed, "certificate has no principals; it would be good for every login")
	}
	if len(principals) > MaxPrincipals {
		return access.Errorf(access.CodeDenied, "certificate has %d principals; at most %d are possible", len(principals), MaxPrincipals)
	}
	seen := make(map[string]bool, len(principals))
	for _, p := range principals {
		name, login, ok := strings.Cut(p, "/")
		if !ok {
			return access.Errorf(access.CodeMalformed, "principal %.80q is not of the form resource/login, such as web-1/deploy", p)
		}
		if _, err := Principal(kind+"/"+name, login); err != nil {
			return access.Errorf(access.CodeMalformed, "principal %.80q: %v", p, err)
		}
		if seen[p] {
			return access.Errorf(access.CodeMalformed, "principal %q stands there twice", p)
		}
		seen[p] = true
	}
	return nil
}

// checkSeries refuses a serial of a series that hosts don't look for: they
// would not learn that the certificate is revoked.
func checkSeries(serial uint64, principals []string) error {
	for _, p := range principals {
		if name, _, _ := strings.Cut(p, "/"); !krl.InSeries(serial, name) {
			return access.Errorf(access.CodeMalformed, "certificate serial %d is not of the series of %s", serial, name)
		}
	}
	return nil
}

// checkSubject returns the key in x/crypto's own type, read from its wire
// form: what is checked is what will be certified.
func (c *CA) checkSubject(key ssh.PublicKey) (ssh.PublicKey, error) {
	if key == nil {
		return nil, access.Errorf(access.CodeMalformed, "certificate has no public key")
	}
	wire := key.Marshal()
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, access.Errorf(access.CodeMalformed, "public key to certify can't be read: %v", err)
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return nil, access.Errorf(access.CodeForbidden, "public key to certify is itself a certificate")
	}
	if bytes.Equal(wire, c.marshaled) {
		return nil, access.Errorf(access.CodeForbidden, "public key to certify is the CA's own")
	}
	for _, other := range c.others {
		if bytes.Equal(wire, other.Marshal()) {
			return nil, access.Errorf(access.CodeForbidden, "public key to certify is that of another CA")
		}
	}
	if !slices.Contains(subjectTypes, key.Type()) {
		return nil, access.Errorf(access.CodeForbidden, "public key to certify has type %s", key.Type()).
			WithHint("make one with: ssh-keygen -t ed25519")
	}
	if bits := rsaBits(key); key.Type() == ssh.KeyAlgoRSA && bits < MinRSABits {
		return nil, access.Errorf(access.CodeForbidden, "public key to certify is RSA of %d bits; at least %d are needed", bits, MinRSABits).
			WithHint("make one with: ssh-keygen -t ed25519")
	}
	return key, nil
}

func checkValidity(notBefore, notAfter, now time.Time, most time.Duration) error {
	if notBefore.Nanosecond() != 0 || notAfter.Nanosecond() != 0 {
		return access.Errorf(access.CodeMalformed, "certificate validity is not in whole seconds")
	}
	lifetime := notAfter.Sub(notBefore)
	if lifetime <= 0 {
		return access.Errorf(access.CodeMalformed, "certificate would end before it begins")
	}
	if lifetime > most {
		return access.Errorf(access.CodeDenied, "certificate would live %s; at most %s is possible",
			access.ShortDuration(lifetime), access.ShortDuration(most))
	}
	if !notAfter.After(now) {
		return access.Errorf(access.CodeEnded, "certificate would have ended at %s already", notAfter.UTC().Format(time.RFC3339))
	}
	// The clock that chose NotBefore may be another issuer's.
	if notBefore.After(now.Add(access.ClockSkew)) {
		return access.Errorf(access.CodeUnavailable, "certificate would begin at %s, which is yet to come", notBefore.UTC().Format(time.RFC3339))
	}
	return nil
}

// criticalOptions are the options that a host must know and enforce, or refuse
// the certificate.
func criticalOptions(o access.SSHOptions, command string) (map[string]string, error) {
	out := map[string]string{}
	switch {
	case command == "":
		command = o.ForceCommand
	case o.ForceCommand != "" && o.ForceCommand != command:
		return nil, access.Errorf(access.CodeDenied, "request is for one command and policy forces another")
	}
	if command != "" {
		if err := access.CheckText("forced command", command, access.MaxCommand); err != nil {
			return nil, err
		}
		if strings.TrimSpace(command) == "" {
			return nil, access.Errorf(access.CodeMalformed, "forced command is blank")
		}
		out[forceCommand] = command
	}
	if o.SourceAddress != nil {
		if err := checkSourceAddress(o.SourceAddress); err != nil {
			return nil, err
		}
		out[sourceAddress] = strings.Join(o.SourceAddress, ",")
	}
	return out, nil
}

// checkSourceAddress lets through what OpenSSH takes: addresses and CIDRs with
// no bit set past the prefix. (It refuses logins over "10.0.0.7/8".) An empty
// list, as opposed to none, is what an intersection without a common address
// would leave; written into the certificate it would mean everywhere.
func checkSourceAddress(list []string) error {
	if len(list) == 0 {
		return access.Errorf(access.CodeDenied, "source addresses are restricted to an empty list")
	}
	if len(list) > MaxSourceAddresses {
		return access.Errorf(access.CodeDenied, "certificate has %d source addresses; at most %d are possible", len(list), MaxSourceAddresses)
	}
	for _, s := range list {
		var ok bool
		if strings.Contains(s, "/") {
			p, err := netip.ParsePrefix(s)
			ok = err == nil && p.Masked() == p && p.String() == s && !p.Addr().Is4In6()
		} else {
			a, err := netip.ParseAddr(s)
			ok = err == nil && a.Zone() == "" && a.String() == s && !a.Is4In6()
		}
		if !ok {
			return access.Errorf(access.CodeMalformed, "source address %.80q is not an address or CIDR in its shortest form, such as 10.0.0.0/8", s)
		}
	}
	return nil
}

// extensions are those that sshd knows, which have no data, and those for the
// host's agent, which it ignores.
func extensions(o access.SSHOptions) (map[string]string, error) {
	out := map[string]string{}
	for _, x := range []struct {
		name string
		long access.Seconds
		most time.Duration
	}{{access.ExtensionGrace, o.Grace, access.MaxGrace}, {access.ExtensionWarn, o.Warn, MaxLifetime}} {
		if x.long < 0 || x.long.Duration() > x.most {
			return nil, access.Errorf(access.CodeDenied, "certificate extension %s is %s, not 0s to %s", x.name, x.long, access.ShortDuration(x.most))
		}
		if x.long > 0 {
			out[x.name] = x.long.String()
		}
	}
	for _, n := range o.Extensions {
		if !slices.Contains(Extensions(), n) {
			return nil, access.Errorf(access.CodeDenied, "certificate extension %.80q is not one of %s", n, strings.Join(Extensions(), ", "))
		}
		if _, twice := out[n]; twice {
			return nil, access.Errorf(access.CodeMalformed, "certificate extension %s stands there twice", n)
		}
		out[n] = ""
	}
	return out, nil
}
