package statement

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
)

// EnrolledNamespace is the SSHSIG namespace of what hosts are told.
const EnrolledNamespace = "enrolled@hallpass"

// SignEnrolled has an SSH CA sign what a host has to know. Whoever trusts the CA to
// let people in trusts it to say which CAs, and whom where.
func SignEnrolled(ca ssh.Signer, e access.Enrolled) (access.Statement, error) {
	payload, err := json.Marshal(e)
	if err != nil {
		return access.Statement{}, err
	}
	signature, err := SignData(ca, EnrolledNamespace, payload)
	if err != nil {
		return access.Statement{}, err
	}
	return access.Statement{Payload: string(payload), Signature: signature}, nil
}

// OpenEnrolled verifies what SignEnrolled has signed, and gives the key that did.
// Whether that is a CA to listen to, and whether it answers what was asked, is for
// the caller to say. Errors: access.CodeUnverified, access.CodeMalformed.
func OpenEnrolled(st access.Statement) (access.Enrolled, ssh.PublicKey, error) {
	key, err := VerifyData([]byte(st.Payload), EnrolledNamespace, st.Signature)
	if err != nil {
		return access.Enrolled{}, nil, err
	}
	e, err := parseEnrolled([]byte(st.Payload))
	if err != nil {
		return access.Enrolled{}, nil, err
	}
	return e, key, nil
}

// parseEnrolled reads strictly what it knows, so that no other reader finds something
// else in it. Fields that it doesn't know are ignored: issuers are renewed before
// hosts. What an older host mustn't miss takes another namespace.
func parseEnrolled(payload []byte) (access.Enrolled, error) {
	var e access.Enrolled
	known := []struct {
		name string
		to   any
	}{
		{"answers", &e.Answers}, {"agent_key", &e.AgentKey}, {"host", &e.Host}, {"certificate", &e.Certificate}, {"user_cas", &e.UserCAs},
		{"host_cas", &e.HostCAs}, {"principals", &e.Principals}, {"renew_after", &e.RenewAfter},
	}
	bad := func(format string, args ...any) (access.Enrolled, error) {
		return access.Enrolled{}, access.Errorf(access.CodeMalformed, "what the host is told: "+format, args...)
	}
	values, err := object(payload)
	if err != nil {
		return bad("%v", err)
	}
	for name := range values {
		for _, f := range known {
			if name != f.name && strings.EqualFold(name, f.name) {
				return bad("field %q is written otherwise than %q", clip(name), f.name)
			}
		}
	}
	for _, f := range known {
		value, ok := values[f.name]
		switch {
		case !ok && f.name == "certificate": // there is no host CA
			continue
		case !ok:
			return bad("field %q is missing", f.name)
		case string(value) == "null" && f.name != "host_cas": // of earlier issuers without a host CA
			return bad("field %q is null", f.name)
		case json.Unmarshal(value, f.to) != nil:
			return bad("field %q is not of its type", f.name)
		}
	}
	if _, err := object(values["principals"]); err != nil {
		return bad("principals: %v", err)
	}
	return e, nil
}

// object takes apart what has to be one JSON object, with nothing there twice and
// nothing behind it.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) || !json.Valid(data) || bytes.TrimLeft(data, " \t\r\n")[0] != '{' {
		return nil, access.Errorf(access.CodeMalformed, "not one JSON object")
	}
	values := map[string]json.RawMessage{}
	dec := json.NewDecoder(bytes.NewReader(data))
	_, err := dec.Token() // the opening brace
	for err == nil && dec.More() {
		var name json.Token
		var value json.RawMessage
		name, err = dec.Token()
		field, _ := name.(string)
		if _, ok := values[field]; ok {
			return nil, access.Errorf(access.CodeMalformed, "field %q is there twice", clip(field))
		}
		if err == nil {
			err = dec.Decode(&value)
		}
		values[field] = value
	}
	return values, err
}
