package statement

import (
	"encoding/json"

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
	var e access.Enrolled
	if err := json.Unmarshal([]byte(st.Payload), &e); err != nil {
		return access.Enrolled{}, nil, access.Errorf(access.CodeMalformed, "what the host is told is not the JSON it should be")
	}
	return e, key, nil
}
