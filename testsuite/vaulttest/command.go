package vaulttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"
)

// Command is what the scripts of hallpass use of Vault's own command line, which
// the tests have no program of: the arguments after vault, to a real server.
// VAULT_ADDR and VAULT_CACERT say where, and the token is in ~/.vault-token. It
// returns the exit code, and refuses what it doesn't know.
func Command(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	c, err := api.NewClient(api.DefaultConfig())
	if err == nil {
		c.SetMaxRetries(0)
		home, _ := os.UserHomeDir()
		if token, err := os.ReadFile(filepath.Join(home, ".vault-token")); err == nil {
			c.SetToken(strings.TrimSpace(string(token)))
		}
		err = command{c, stdin, stdout}.run(args)
	}
	switch {
	case errors.Is(err, errSealed):
		return 2
	case err != nil:
		_, _ = fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

var errSealed = errors.New("vault is sealed")

type command struct {
	*api.Client
	stdin  io.Reader
	stdout io.Writer
}

func (c command) run(args []string) error {
	flags := map[string]string{}
	args = slices.DeleteFunc(args, func(arg string) bool {
		name, value, _ := strings.Cut(arg, "=")
		flag := len(name) > 1 && name[0] == '-'
		if flag {
			flags[name[1:]] = value
		}
		return flag
	})
	var words [4]string // what there is of them
	copy(words[:], args)
	switch words[0] + " " + words[1] {
	case "status ":
		is, err := c.Sys().SealStatus()
		if err == nil && is.Sealed {
			err = errSealed
		}
		return err
	case "token lookup":
		_, err := c.Auth().Token().LookupSelf()
		return err
	case "secrets list":
		mounts, err := c.Sys().ListMounts()
		return c.print(slices.Sorted(maps.Keys(mounts)), err)
	case "secrets enable":
		return c.Sys().Mount(words[2], &api.MountInput{Type: words[2]})
	case "auth list":
		mounts, err := c.Sys().ListAuth()
		return c.print(slices.Sorted(maps.Keys(mounts)), err)
	case "auth enable":
		return c.Sys().EnableAuthWithOptions(flags["path"], &api.EnableAuthOptions{Type: words[2]})
	case "policy list":
		names, err := c.Sys().ListPolicies()
		return c.print(names, err)
	case "policy delete":
		return c.Sys().DeletePolicy(words[2])
	case "policy write":
		text, err := io.ReadAll(c.stdin)
		if err == nil {
			err = c.Sys().PutPolicy(words[2], string(text))
		}
		return err
	}
	switch {
	case len(args) < 2:
	case words[0] == "write":
		data, err := c.data(args[2:])
		if err != nil {
			return err
		}
		secret, err := c.Logical().Write(words[1], data)
		return c.field(secret, flags["field"], err)
	case words[0] == "read":
		secret, err := c.Logical().Read(words[1])
		return c.field(secret, flags["field"], err)
	}
	return fmt.Errorf("vault %s isn't known here", strings.Join(args, " "))
}

// data is what is to be written: an object on standard input for -, and KEY=VALUE,
// of which those with the same key are a list.
func (c command) data(args []string) (map[string]any, error) {
	data := map[string]any{}
	for _, arg := range args {
		if arg == "-" {
			if err := json.NewDecoder(c.stdin).Decode(&data); err != nil {
				return nil, err
			}
			continue
		}
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return nil, fmt.Errorf("%s isn't KEY=VALUE", arg)
		}
		switch had := data[key].(type) {
		case nil:
			data[key] = value
		case string:
			data[key] = []string{had, value}
		case []string:
			data[key] = append(had, value)
		}
	}
	return data, nil
}

// print prints a line each.
func (c command) print(lines []string, err error) error {
	if err == nil {
		_, err = fmt.Fprintln(c.stdout, strings.Join(lines, "\n"))
	}
	return err
}

// field prints one field of what Vault answers, or nothing.
func (c command) field(secret *api.Secret, name string, err error) error {
	if err != nil || name == "" {
		return err
	}
	if secret == nil || secret.Data[name] == nil {
		return fmt.Errorf("the answer has no %s", name)
	}
	_, err = fmt.Fprintln(c.stdout, secret.Data[name])
	return err
}
