// Package directory knows the users: their groups and the keys that they sign
// statements with. It is read from one file, directory.yaml, which is
// specified in docs/spec/directory-and-catalog.md.
//
// Whoever can write that file can make himself anybody. So it is judged as a
// whole: one bad line and there is no directory. A key belongs to one user
// only, since a signature has to be one person's word.
//
// A Directory doesn't change. A changed file is a new Directory with another
// digest.
package directory

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/internal/yamlfile"
	"hallpass/statement"
)

// Directory is one version of the file. It is safe for concurrent use.
type Directory struct {
	data    []byte
	digest  string
	users   map[string]*user
	owners  map[string]*user // by the key's wire format
	members map[string][]string
}

type user struct {
	access.User
	keys []ssh.PublicKey
	pin  bool
}

var _ statement.Keys = (*Directory)(nil)

// Parse reads a directory file. Errors begin with "name:line:column: ".
func Parse(name string, data []byte) (*Directory, error) {
	root, err := yamlfile.Parse(name, data)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	d := &Directory{
		data:    bytes.Clone(data),
		digest:  "sha256:" + hex.EncodeToString(sum[:]),
		users:   map[string]*user{},
		owners:  map[string]*user{},
		members: map[string][]string{},
	}
	lines := map[string]int{} // where each key stands
	found := false
	err = root.Fields(map[string]func(yamlfile.Node) error{
		"users": func(n yamlfile.Node) error {
			found = true
			return n.Each(func(name string, at, value yamlfile.Node) error {
				if err := access.CheckName("user", name); err != nil {
					return at.Wrap(err)
				}
				return d.addUser(name, value, lines)
			})
		},
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, root.Errorf("field %q is missing", "users")
	}
	for name, u := range d.users {
		for _, g := range u.Groups {
			d.members[g] = append(d.members[g], name)
		}
	}
	for _, names := range d.members {
		slices.Sort(names)
	}
	return d, nil
}

func (d *Directory) addUser(name string, value yamlfile.Node, lines map[string]int) error {
	u := &user{User: access.User{Name: name}}
	d.users[name] = u
	var keys []yamlfile.Node
	err := value.Fields(map[string]func(yamlfile.Node) error{
		"groups": func(n yamlfile.Node) (err error) {
			u.Groups, err = n.Texts(func(s string) error { return access.CheckName("group", s) })
			slices.Sort(u.Groups)
			return err
		},
		"pin": func(n yamlfile.Node) error {
			u.pin = true
			_, err := n.Checked(func(s string) error {
				if s != "required" {
					return access.Errorf(access.CodeMalformed, "pin can only be \"required\"; leave it out otherwise")
				}
				return nil
			})
			return err
		},
		// Keys wait until it is known whether a PIN is required.
		"keys": func(n yamlfile.Node) error {
			return n.List(func(item yamlfile.Node) error { keys = append(keys, item); return nil })
		},
	})
	if err != nil {
		return err
	}
	for _, n := range keys {
		if err := d.addKey(u, n, lines); err != nil {
			return err
		}
	}
	return nil
}

func (d *Directory) addKey(u *user, n yamlfile.Node, lines map[string]int) error {
	text, err := n.Text()
	if err != nil {
		return err
	}
	key, err := parseLine(text)
	if err != nil {
		return n.Wrap(err)
	}
	wire := string(key.Marshal())
	if other, ok := d.owners[wire]; ok {
		if other == u {
			return n.Errorf("%s has this key twice, already in line %d", u.Name, lines[wire])
		}
		return n.Errorf("key of %s belongs to %s already, in line %d; a key can have one owner only", u.Name, other.Name, lines[wire])
	}
	if u.pin && !strings.HasPrefix(key.Type(), "sk-") {
		return n.Errorf("%s has to sign with a PIN, which only a FIDO key (sk-…) can prove; this is %s", u.Name, key.Type())
	}
	d.owners[wire], lines[wire] = u, n.Line()
	u.keys = append(u.keys, key)
	return nil
}

// maxComment bounds the comment behind a key, in bytes.
const maxComment = 200

// parseLine reads a line of a .pub file: "type base64 comment".
func parseLine(s string) (ssh.PublicKey, error) {
	parts := strings.SplitN(s, " ", 3)
	if len(parts) == 3 {
		if err := access.CheckText("key comment", parts[2], maxComment); err != nil {
			return nil, err
		}
		parts = parts[:2]
	}
	return statement.ParseKey(strings.Join(parts, " "))
}

// Digest is "sha256:" and the SHA-256 of the file in lower-case hex.
func (d *Directory) Digest() string { return d.digest }

// Data is the file as it was read.
func (d *Directory) Data() []byte { return bytes.Clone(d.data) }

// User finds a user by name.
func (d *Directory) User(name string) (access.User, bool) {
	u, ok := d.users[name]
	if !ok {
		return access.User{}, false
	}
	return u.view(), true
}

// Users lists everybody, sorted by name.
func (d *Directory) Users() []access.User {
	list := make([]access.User, 0, len(d.users))
	for _, name := range d.names() {
		list = append(list, d.users[name].view())
	}
	return list
}

// Keys lists a user's keys in the order of the file.
func (d *Directory) Keys(user string) []ssh.PublicKey {
	u, ok := d.users[user]
	if !ok {
		return nil
	}
	return slices.Clone(u.keys)
}

// Owner finds whose key it is, false if it is nobody's.
func (d *Directory) Owner(key ssh.PublicKey) (access.User, bool) {
	u, ok := d.owners[string(key.Marshal())]
	if !ok {
		return access.User{}, false
	}
	return u.view(), true
}

// PinRequired says whether the user's signatures have to prove that a FIDO
// key was unlocked by PIN or fingerprint. It is true for users that aren't
// there: nobody can sign for them anyway.
func (d *Directory) PinRequired(user string) bool {
	u, ok := d.users[user]
	return !ok || u.pin
}

// Members lists a group's users, sorted. A group exists by being named.
func (d *Directory) Members(group string) []string { return slices.Clone(d.members[group]) }

// AllowedSigners writes the directory in the format of ssh-keygen's
// allowed_signers file (ssh-keygen(1)), so that anyone can check a statement
// with OpenSSH alone:
//
//	ssh-keygen -Y verify -f allowed_signers -I alice -n request@hallpass -s request.sig < request.json
//
// The format can't say that a PIN is required, and ssh-keygen doesn't demand
// the touch of a FIDO key: package statement is stricter in both.
func (d *Directory) AllowedSigners() []byte {
	var namespaces []string
	for _, t := range []access.Type{access.TypeRequest, access.TypeDecision, access.TypeRelease, access.TypeRevoke, access.TypeCancel, access.TypeReview, access.TypeLock, access.TypeDelegation, access.TypeHost} {
		namespaces = append(namespaces, t.Namespace())
	}
	var b bytes.Buffer
	for _, name := range d.names() {
		for _, key := range d.users[name].keys {
			fmt.Fprintf(&b, "%s namespaces=\"%s\" %s\n", name, strings.Join(namespaces, ","), statement.MarshalKey(key))
		}
	}
	return b.Bytes()
}

func (d *Directory) names() []string { return slices.Sorted(maps.Keys(d.users)) }

// view is the user as others get him: theirs to change.
func (u *user) view() access.User {
	return access.User{Name: u.Name, Groups: slices.Clone(u.Groups)}
}
