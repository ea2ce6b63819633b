package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"hallpass/access"
	"hallpass/statement"
)

// identity is who is typing, as far as this machine knows. The service takes
// nobody's word for it: it looks at the signature.
type identity struct {
	user   access.User // with groups where the directory is at hand
	signer *statement.Signer
}

// envKeyData is the variable with the signing key itself, for pipelines. It is
// no setting: the configuration holds no secret.
const envKeyData = "HALLPASS_KEY_DATA"

// identify finds the user's name and signing key. Configuration comes first;
// where it is silent, the directory says which of the user's keys is known,
// and whose it is.
func (a *app) identify() (*identity, error) {
	cfg, err := a.settings()
	if err != nil {
		return nil, err
	}
	name, dir := cfg.Client.User, a.directoryOrNil()
	home, _ := a.home() // without one, only the agent is looked at
	o := statement.SignerOptions{
		Key: cfg.Client.Key, Data: a.env(envKeyData), AgentSocket: a.env("SSH_AUTH_SOCK"), Home: home, Passphrase: a.passphrase,
	}
	opened := func() {}
	if cfg.Client.Service != "" {
		// There, a command signs what it asks by and what it says: nobody
		// shall type a passphrase twice for one command.
		o.Passphrase = func(path string) ([]byte, error) {
			// Whoever gets it wipes it.
			if phrase, ok := a.setup.phrases[path]; ok {
				return slices.Clone(phrase), nil
			}
			phrase, err := a.passphrase(path)
			kept := slices.Clone(phrase)
			opened = func() { a.setup.phrases = map[string][]byte{path: kept} }
			return phrase, err
		}
	}
	if o.Data != "" && a.env("HALLPASS_KEY") != "" {
		return nil, usagef("both HALLPASS_KEY and %s name a signing key", envKeyData).withHint("unset one of them")
	}
	if dir != nil {
		o.Want = func(k ssh.PublicKey) bool {
			owner, ok := dir.Owner(k)
			return ok && (name == "" || owner.Name == name)
		}
	}
	signer, err := statement.FindSigner(o)
	if err != nil {
		return nil, fmt.Errorf("find your signing key: %w", err)
	}
	opened()
	if name == "" && dir != nil {
		if owner, ok := dir.Owner(signer.PublicKey()); ok {
			name = owner.Name
		}
	}
	if name == "" {
		_ = signer.Close()
		return nil, failf(ExitError, "nobody is known to have the key %s", ssh.FingerprintSHA256(signer.PublicKey())).
			withHint("set HALLPASS_USER to your name in the directory")
	}
	me := &identity{user: access.User{Name: name}, signer: signer}
	if dir != nil {
		if u, ok := dir.User(name); ok {
			me.user = u
		}
	}
	return me, nil
}

// whoami is the user's name and groups without a key, for what isn't signed.
func (a *app) whoami() (access.User, error) {
	cfg, err := a.settings()
	if err != nil {
		return access.User{}, err
	}
	if name := cfg.Client.User; name != "" {
		if dir := a.directoryOrNil(); dir != nil {
			if u, ok := dir.User(name); ok {
				return u, nil
			}
		}
		return access.User{Name: name}, nil
	}
	me, err := a.identify()
	if err != nil {
		return access.User{}, err
	}
	_ = me.signer.Close()
	return me.user, nil
}

// knownAs is the user with the groups that b knows, where this machine has no
// directory. They decide nothing; they say what is marked as the user's.
func (a *app) knownAs(b backend, me access.User) access.User {
	k, ok := b.(knower)
	if !ok || me.Name == "" || a.directoryOrNil() != nil {
		return me
	}
	if known, err := k.Me(a.ctx); err == nil && known.Name == me.Name {
		return known
	}
	return me
}

// sign signs payload, and says so where a key may be waiting for a touch. Whatever the
// service would find wrong with the words is found before that, by parse.
func sign[T any](a *app, me *identity, payload T, parse func([]byte) (T, error)) (access.Statement, error) {
	data, err := json.Marshal(payload)
	if err != nil {
		return access.Statement{}, err
	}
	if _, err := parse(data); err != nil {
		return access.Statement{}, err
	}
	if strings.HasPrefix(me.signer.PublicKey().Type(), "sk-") && a.err.tty {
		a.err.Printf("Touch your security key to sign.\n")
	}
	st, err := statement.Sign(me.signer, payload)
	if err != nil {
		return access.Statement{}, fmt.Errorf("sign with %s: %w", me.signer.Source, err)
	}
	return st, nil
}

// signStop signs a release, revoke or cancel, as its type says.
func signStop(a *app, me *identity, stop access.Stop) (access.Statement, error) {
	return sign(a, me, stop, func(p []byte) (access.Stop, error) { return statement.ParseStop(p, stop.Type) })
}

// signRead signs what the service knows by whom it is asked. Nobody is asked for
// anything at a Tab.
func (a *app) signRead(r access.Read) (access.Statement, error) {
	me, err := a.identify()
	if err != nil {
		return access.Statement{}, err
	}
	defer func() { _ = me.signer.Close() }()
	if a.completing && strings.HasPrefix(me.signer.PublicKey().Type(), "sk-") {
		return access.Statement{}, errNoTerminal
	}
	r.Header = a.header(access.TypeRead, me)
	return sign(a, me, r, statement.ParseRead)
}

// console is the user's terminal, beside whatever stdin and stdout are.
type console interface {
	io.ReadWriteCloser
	ReadPassword() ([]byte, error)
}

type ttyConsole struct{ *os.File }

func (t ttyConsole) ReadPassword() ([]byte, error) { return term.ReadPassword(int(t.Fd())) }

func openConsole() (console, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return ttyConsole{f}, nil
}

var errNoTerminal = errors.New("there is no terminal to ask on")

func (a *app) passphrase(path string) ([]byte, error) {
	if a.completing {
		return nil, errNoTerminal
	}
	tty, err := a.console()
	if err != nil {
		return nil, errNoTerminal
	}
	defer func() { _ = tty.Close() }()
	newPrinter(tty, a.env).Printf("Passphrase for %s: ", path)
	secret, err := tty.ReadPassword()
	_, _ = io.WriteString(tty, "\n")
	return secret, err
}

// ask reads one line from the terminal, byte by byte so that nothing of what
// is typed ahead is swallowed. It ends with ctx.
func ask(ctx context.Context, tty console, question string) (string, error) {
	if _, err := io.WriteString(tty, question+" "); err != nil {
		return "", err
	}
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // left behind, blocked, if ctx ends first; so is the terminal
		var line []byte
		var b [1]byte
		for {
			n, err := tty.Read(b[:])
			if n == 1 && b[0] != '\n' && len(line) <= access.MaxReason { // longer is refused later
				line = append(line, b[0])
			}
			if n == 1 && b[0] == '\n' || err != nil {
				got <- answer{strings.TrimSpace(string(line)), err}
				return
			}
		}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case a := <-got:
		return a.line, a.err
	}
}

// people names who could give an approval that is missing, the requester and
// those who have spoken left out; "" where the directory isn't at hand.
func (a *app) people(s access.Standing, set access.Set) string {
	dir := a.directoryOrNil()
	if dir == nil {
		return ""
	}
	var names []string
	for _, group := range set.Groups {
		for _, m := range dir.Members(group) {
			spoken := slices.ContainsFunc(s.Voices, func(v access.Voice) bool { return v.Signer == m || v.For == m })
			if m != s.Request.Signer && !spoken && !slices.Contains(names, m) {
				names = append(names, m)
			}
		}
	}
	slices.Sort(names)
	const most = 5
	if n := len(names); n > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), n-most)
	}
	return strings.Join(names, ", ")
}
