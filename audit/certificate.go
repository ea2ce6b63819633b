package audit

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hallpass/access"
	"hallpass/ca"
	"hallpass/ca/krl"
	"hallpass/catalog"
	"hallpass/statement"
)

// checkCredential says whether a credential is what its standing allowed: no
// longer, no wider and for nobody else.
func checkCredential(cred access.Credential, st access.Standing, issued time.Time) error {
	h := cred.Handle
	switch {
	case h.Extends != st.Request.Extends:
		return fmt.Errorf("the credential's handle extends %q, the request %q", clip(h.Extends), st.Request.Extends)
	case st.Extends == nil && h.NotAfter.Sub(h.NotBefore) > st.Duration.Duration():
		return fmt.Errorf("the credential lives %s, %s was allowed", access.ShortDuration(h.NotAfter.Sub(h.NotBefore)), st.Duration)
	case h.NotAfter.After(st.End(h.NotBefore)):
		return fmt.Errorf("the credential lives until %s, until %s was allowed", h.NotAfter.Format(time.RFC3339), st.End(h.NotBefore).Format(time.RFC3339))
	case !h.NotAfter.After(h.NotBefore):
		return fmt.Errorf("the credential ends before it begins")
	case h.NotBefore.After(issued.Add(access.ClockSkew)):
		return fmt.Errorf("the credential begins at %s, after it was issued", h.NotBefore.Format(time.RFC3339))
	case h.NotBefore.Before(st.Request.Time.Add(-access.ClockSkew)):
		return fmt.Errorf("the credential begins at %s, before it was asked for", h.NotBefore.Format(time.RFC3339))
	case st.Request.Start != nil && h.NotBefore.Before(*st.Request.Start):
		return fmt.Errorf("the credential begins at %s, before the start that was asked for", h.NotBefore.Format(time.RFC3339))
	case h.Kind != st.Resource.Kind:
		return fmt.Errorf("the credential is of the kind %s, the resource of %s", clip(h.Kind), st.Resource.Kind)
	}
	switch h.Kind {
	case catalog.KindSSH:
		return checkCertificate(cred, st)
	case catalog.KindVault:
		return checkSealed(cred)
	}
	return nil
}

// checkSealed says whether the credential is what its handle names, and that
// alone. What is sealed in it only the requester can read.
func checkSealed(cred access.Credential) error {
	switch h := cred.Handle; {
	case h.Accessor == "":
		return fmt.Errorf("the handle names no accessor to revoke by")
	case cred.Sealed == "" || cred.Sealed != h.Sealed:
		return fmt.Errorf("the credential is not the one that its handle names")
	case cred.Certificate != "":
		return fmt.Errorf("the credential has a certificate, which nobody asked for")
	}
	return nil
}

// checkCertificate compares an SSH certificate (PROTOCOL.certkeys) field by
// field with what it should be, and checks the CA's signature.
func checkCertificate(cred access.Credential, st access.Standing) error {
	key, _, _, rest, err := ssh.ParseAuthorizedKey([]byte(cred.Certificate))
	if err != nil || len(rest) > 0 {
		return fmt.Errorf("the certificate can't be read")
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok || ca.Marshal(cert) != cred.Certificate {
		return fmt.Errorf("the certificate is not in the form that the CA writes")
	}
	h, request := cred.Handle, st.Request
	subject, err := statement.ParseKey(request.PublicKey)
	if err != nil {
		return fmt.Errorf("the requested key: %w", err)
	}
	keyID, err := ca.KeyID(request.ID, request.Signer)
	if err != nil {
		return err
	}
	principal, err := ca.Principal(request.Resource, request.Login)
	if err != nil {
		return err
	}
	name, _, _ := strings.Cut(principal, "/")
	critical := map[string]string{}
	if command := request.Command; command != "" {
		critical["force-command"] = command
	} else if command = st.Ruling.SSH.ForceCommand; command != "" {
		critical["force-command"] = command
	}
	if list := st.Ruling.SSH.SourceAddress; list != nil {
		critical["source-address"] = strings.Join(list, ",")
	}
	extensions := map[string]string{}
	for _, name := range st.Ruling.SSH.Extensions {
		extensions[name] = ""
	}
	for name, d := range map[string]access.Seconds{
		access.ExtensionGrace: min(st.Ruling.SSH.Grace, h.Grace()), // never longer than what was prepared
		access.ExtensionWarn:  st.Ruling.SSH.Warn,
	} {
		if d > 0 {
			extensions[name] = d.String()
		}
	}
	if request.Extends != "" {
		extensions[access.ExtensionExtends] = request.Extends
	}
	switch {
	case h.Grace() < 0 || h.Grace().Duration() > access.MaxGrace:
		return fmt.Errorf("sessions may stay %s past its end, more than %s", h.Grace(), access.ShortDuration(access.MaxGrace))
	case cert.CertType != ssh.UserCert:
		return fmt.Errorf("the certificate is not a user's")
	case !bytes.Equal(cert.Key.Marshal(), subject.Marshal()):
		return fmt.Errorf("the certificate is for another key than the one in the request")
	case cert.Serial != h.Serial || !krl.Counted(cert.Serial):
		return fmt.Errorf("the certificate has serial %d, its handle %d", cert.Serial, h.Serial)
	case !krl.InSeries(cert.Serial, name):
		return fmt.Errorf("the certificate's serial %d is not of the series of %s", cert.Serial, name)
	case cert.KeyId != keyID:
		return fmt.Errorf("the certificate has the key id %q, not %q", clip(cert.KeyId), keyID)
	case !slices.Equal(cert.ValidPrincipals, h.Principals):
		return fmt.Errorf("the certificate has other principals than its handle")
	case !slices.Equal(cert.ValidPrincipals, []string{principal}):
		return fmt.Errorf("the certificate is good for %q, %q was approved", clip(strings.Join(cert.ValidPrincipals, ",")), principal)
	case cert.ValidBefore != uint64(h.NotAfter.Unix()):
		return fmt.Errorf("the certificate doesn't end when the grant does, at %s", h.NotAfter.Format(time.RFC3339))
	case cert.ValidAfter != uint64(h.NotBefore.Add(-ca.BackDate).Unix()):
		return fmt.Errorf("the certificate doesn't begin when the grant does, at %s", h.NotBefore.Format(time.RFC3339))
	case !maps.Equal(cert.CriticalOptions, critical):
		return fmt.Errorf("the certificate's restrictions are not those of the policy")
	case !maps.Equal(cert.Extensions, extensions):
		return fmt.Errorf("the certificate permits other things than the policy")
	case ssh.FingerprintSHA256(cert.SignatureKey) != h.CA:
		return fmt.Errorf("the certificate is signed by another CA than %s", clip(h.CA))
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: slices.Collect(maps.Keys(critical)),
		Clock:                    func() time.Time { return h.NotBefore },
	}
	if err := checker.CheckCert(principal, cert); err != nil {
		return fmt.Errorf("the certificate: %w", err)
	}
	return nil
}
