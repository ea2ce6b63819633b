// Package attacks names every attack on hallpass that we know of, the promise
// that it is on, and the tests that carry it out. Most are with the part that
// they attack; those that need everything at once are in this package and run
// against a real hallpass dev, sshd and ssh.
//
//	make attack
//
// runs all of them and prints what held. The table in
// docs/design/threat-model.md is made of this list.
package attacks

import (
	"fmt"
	"strings"
)

// Attack is something that somebody may try.
type Attack struct {
	Name    string
	Promise int    // of the six in docs/design/threat-model.md
	What    string // what comes of it

	// Tests try it: "package.TestName" or "package.FuzzName", whose corpus is
	// run, or "name.txtar" for an end-to-end script.
	Tests []string
}

// All are the known attacks, by promise.
var All = []Attack{
	{"signature over other bytes, of another namespace, by a key that isn't the signer's", 1, "refused before anything is parsed",
		[]string{"testsuite/attacks.TestForgedApprovals", "testsuite/attacks.TestForgedRequests", "statement.TestOpenRefuses", "statement.TestTypesDontMix", "statement.TestHostStatementsDontMix", "statement.FuzzVerify", "statement.FuzzVerifyAgainstOpenSSH"}},
	{"weak, re-wrapped or trailing signatures", 1, "refused",
		[]string{"testsuite/attacks.TestForgedApprovals", "statement.TestWeakSignaturesRefused", "statement.TestUnarmor", "statement.TestTrailingBytesBehindSignature"}},
	{"approval by somebody who has left, or lost the key or the group", 1, "judged by today's directory",
		[]string{"testsuite/attacks.TestFilesSwappedBeforeTheIssue", "grant.TestIssueRefuses", "evidence.TestJudge", "workflows.TestGroupsChangeMeanwhile"}},
	{"policy, directory or catalog swapped between the decision and the issue", 1, "judged by today's files",
		[]string{"testsuite/attacks.TestFilesSwappedBeforeTheIssue", "grant.TestIssueRefuses", "workflows.TestPolicyChangesMeanwhile", "reload.txtar"}},
	{"a payload that two parsers read in two ways: repeated keys, other case, big numbers", 1, "one strict form, nothing repaired",
		[]string{"testsuite/attacks.TestForgedApprovals", "testsuite/attacks.TestForgedRequests", "statement.TestParseRequest", "statement.TestParseDecision", "statement.TestOpenEnrolledIsStrict", "statement.FuzzParse"}},
	{"principals with commas, newlines, NUL or wildcards, or none at all", 1, "refused before the key is touched; read back by OpenSSH",
		[]string{"testsuite/attacks.TestForgedRequests", "ca.TestPrepare", "ca.TestPrincipal", "ca.TestSSHKeygenReads", "ca.FuzzIssueAgainstOpenSSH", "ca.TestSSHD"}},
	{"forged key id", 1, "refused by CA, client and host agent; sessions by it aren't hallpass's",
		[]string{"testsuite/attacks.TestForgedKeyID", "testsuite/attacks.TestForgedRequests", "testsuite/attacks.TestRoguePollerOnTheIssuersQueue", "host.TestOtherCertificatesAreLeftAlone", "host.FuzzReadAuthInfoAgainstOpenSSH", "ca.TestKeyID", "ca.FuzzKeyID", "ca.TestParseKeyID", "ca.FuzzParseKeyID", "host.TestReadAuthInfo"}},
	{"certificate for a key that the directory has as somebody else's, or for another than was asked for", 1, "the first is refused; the client doesn't install the second",
		[]string{"refuse.txtar", "evidence.TestJudge", "cli.TestCertificateOfAnotherIsNotInstalled"}},
	{"forced command or source address lost on the way, or overridden by the requester", 1, "in the certificate as policy says; enforced by sshd",
		[]string{"testsuite/attacks.TestForcedOptionsReachTheHost", "grant.TestIssue"}},
	{"host certificate as a user's, user certificate as a host's", 1, "refused by sshd and by ssh, also where both CAs are trusted for both",
		[]string{"testsuite/attacks.TestCertificatesOfTheOtherType", "ca.TestPrepareHost"}},
	{"rogue workflow worker with forged activity results", 1, "neither the issuer believes any of it, nor a host",
		[]string{"rogue.txtar", "testsuite/attacks.TestRogueAnswersAHost", "host.TestForgedRenewals"}},
	{"rogue poller on the issuer's queue, which hands out certificates, answers hosts, or says that it has revoked what it hasn't", 1, "what it makes up no host takes, a real certificate of another request the client doesn't keep, and neither is on record; a host takes what its CA has signed; a certificate that isn't revoked is in the record and the hosts' list all the same. Of kind `vault` the client refuses what isn't sealed to it, of its request, and a token that Vault made for that; a login that isn't revoked lives until a sweep of the issuer's takes it back, or the grant is over",
		[]string{"testsuite/attacks.TestRoguePollerOnTheIssuersQueue", "testsuite/attacks.TestRogueAnswersAHost", "testsuite/attacks.TestRoguePollerRevokesNothing", "vault-rogue.txtar"}},
	{"a plain Temporal client completes the issuer's activity, with a credential of its own", 1, "it isn't kept by who asked, nor on record",
		[]string{"testsuite/attacks.TestIssueAnsweredByAClient", "cli.TestCertificateOfAnotherIsNotInstalled"}},
	{"whoever has the issuer's login to Vault reads, mints otherwise or for longer, or changes what a grant opens", 1, "refused by Vault",
		[]string{"vault.TestIssuersLoginOpensNothing", "vault.TestGrantPolicies", "vault.TestCheckFinds"}},
	{"workflow reset: to before a denial, a release or a revocation, with an approval that was held back; anywhere in a grant that lives, or in a lock that was lifted", 1, "ends are in the ledger; so is what was issued, with its serial and its end, and that the lock was lifted",
		[]string{"testsuite/attacks.TestResetToBeforeTheDenial", "testsuite/attacks.TestResetToBeforeTheEnd", "testsuite/attacks.TestResetOfALiveGrant", "testsuite/attacks.TestResetOfALiftedLock", "activities.TestHearEnds", "workflows.TestDenialLeftOut"}},
	{"workflow id used again, or with other input, by continue-as-new, too", 1, "denied; the ledger knows the first one's hash, and its end",
		[]string{"testsuite/attacks.TestWorkflowIDAgain", "testsuite/attacks.TestContinuedAsAnother", "workflows.TestRunAgain", "workflows.TestForgedRequest", "workflows.TestWrongWorkflowID", "grant.TestIssueOfAnotherPayloadUnderTheSameID"}},
	{"issued under a lock, or beside one", 1, "refused; locks are read again in the transaction that records",
		[]string{"evidence.TestJudgeUnderLocks", "grant.TestLockRacesIssue", "audit.TestIssuedUnderOtherLocks"}},
	{"decisions in another's place by delegations that are made up, revoked, over, passed on, or sent along", 1, "the issuer takes them from the record alone, and looks again in the transaction that records",
		[]string{"evidence.TestJudgeThroughDelegations", "grant.TestIssueThroughDelegations", "grant.TestRevokedWhileTheKindIssues", "audit.TestIssuedThroughDelegations", "audit.TestVerifyDelegations", "grant.TestDelegateDoesNotTakeBackADenial"}},
	{"webhooks and look-ups that reach inside: internal addresses, names that point there, redirects, tickets with another path or host in them", 1, "refused when it connects, by the address; what a request says is no part of where, and no answer from there lets anybody in",
		[]string{"testsuite/attacks.TestWorkerReachesNothingInside", "notify.TestPostRefusesInternalAddresses", "notify.TestPostAnswers", "lookup.TestHostileAnswers", "lookup.FuzzAnswers"}},
	{"whoever reaches the socket of the agent that has the CA's key in a KMS", 1, "it signs what a CA signs, with its own caps, and nothing else; other users are turned away",
		[]string{"kms/allow.TestData", "kms/allow.FuzzData", "kms.TestRolesApart", "kms.TestSocketOfSystemd"}},
	{"the service used by somebody who isn't in the directory, in another's name, with a read statement that is over, of another service, or somebody else's", 1, "401 or 403; nothing of it goes on",
		[]string{"service.TestWhoMayCall", "service.TestWhatIsSaid", "evidence.TestCheckRead", "service-cli.txtar"}},
	{"a server that stands in for the service, or sends its callers elsewhere", 1, "it is sent nothing; what it might get hold of names another service",
		[]string{"transport.TestOnlyTheServiceIsTold", "transport.TestReadStatementIsKept"}},
	{"duration that overflows, is negative, or in another unit", 2, "refused, by the client, the parser and the CA",
		[]string{"testsuite/attacks.TestForgedRequests", "testsuite/attacks.TestForgedApprovals", "access.TestParseDuration", "access.FuzzParseDuration", "bad-input.txtar", "ca.TestPrepare"}},
	{"clock of the issuer moved back and forth", 2, "where it differs from Temporal's by more than 5 minutes nothing is issued; a credential never lasts longer than its grant, counted from one moment",
		[]string{"testsuite/attacks.TestClockOfTheIssuerMoves", "activities.TestIssueWhileClocksDiffer", "grant.TestClockMoves", "evidence.TestTimes", "audit.TestTimeRunningBackwardsIsAWarning", "audit.TestKRLByAClockAhead"}},
	{"terminated workflow", 2, "the certificate ends by itself; a sweep takes the grant back",
		[]string{"sweep.txtar", "workflows.TestSweepEndsOrphans", "kill.txtar"}},
	{"revocation while the issuer works", 2, "whichever is later in the ledger sees the other",
		[]string{"grant.TestIssueRacesRevoke", "grant.TestRevokeWhileTheKindIssues", "workflows.TestRevokeOvertakesIssue"}},
	{"a grant that Temporal says has expired, long before its end", 2, "it is over when it is over: until then it can be revoked, and counts for limits",
		[]string{"grant.TestNotExpiredBeforeItsEnd", "audit.TestForgery"}},
	{"a flood of messages, so that a request doesn't hear its revocation", 2, "it is ended beside the request",
		[]string{"testsuite/attacks.TestRevokedUnderAFlood", "workflows.TestStopEndsTheDeaf", "workflows.TestStopBeforeTheGrant", "workflows.TestStopRefuses", "workflows.TestLockEndsTheDeaf"}},
	{"a flood of requests or bad statements by way of the service, so that another's revocation waits", 2, "each person is let in with so much, and the rest is turned away at once; no part's memory grows with it",
		[]string{"testsuite/attacks.TestRevokedBesideFloods", "service.TestTooManyCalls", "service.TestTooManyRequests", "service.TestTooManyLocks", "service.TestTooManyAtATime"}},
	{"key revocation list rolled back, forged, or empty", 2, "hosts keep the newest that verifies; where a host doesn't know any more which that was, it begins with one of the last few minutes",
		[]string{"host.TestBadListsAreRefused", "host.TestRestartKeepsTheNewerList", "host.TestOldListIsNoBeginning", "host.TestNewerListOfSSHD", "host.TestOpenSSHIsAsked", "host.TestListIsWrittenLater", "audit.TestKRLVersionsOnlyGrow", "ca/krl.TestParseRefuses", "ca/krl.FuzzMarshalAgainstOpenSSH", "ca/krl.FuzzParseAgainstOpenSSH"}},
	{"a lease of Vault's that outlives its grant", 2, "the token ends, and its leases and sessions with it",
		[]string{"testsuite/vaulttest/grants.TestExpiry", "testsuite/vaulttest/grants.TestReadWhileTheGrantEnds", "testsuite/vaulttest/grants.TestGrant", "testsuite/vaulttest/grants.TestSlowMintingLivesNoLonger", "vault-ends.txtar"}},
	{"kill -9 at any moment", 2, "what is out ends on time; what came due is acted on at the restart",
		[]string{"kill.txtar", "kill-between.txtar", "grant.TestCrash"}},
	{"a host's agent starts with records of sessions cut short, or with no file descriptors to spare", 2, "what nobody knows the end of is ended; what can't be looked at now isn't over",
		[]string{"host.TestUnreadableRecord", "host.TestUnreadableRecordWithoutCgroups", "host.TestUnreadableRecordIsReported", "host.TestCgroupsOfOthers", "host.TestRestoreWithoutFileDescriptors"}},
	{"somebody edits PAM's file, and the block of `hallpass-host` loses its first or last line", 2, "nothing is deleted; the lines that are left are named",
		[]string{"host.TestUnenrollWithABrokenBlock", "host.TestBrokenPAM", "host.TestEnrollRefuses", "host.FuzzSystem"}},
	{"audit row edited, deleted, inserted or reordered", 3, "named by verify; the log takes no more events",
		[]string{"testsuite/attacks.TestRecordTamperedWith", "audit.TestTampering", "audit.TestOneByteOfTheFile", "audit.TestAppendingToABrokenLogIsRefused", "audit.txtar"}},
	{"log forked, rewritten, or shown differently to two readers", 3, "found with a checkpoint that was kept, published or cosigned",
		[]string{"testsuite/attacks.TestRecordForked", "audit.TestOlderCheckpoint", "audit.TestPublishFindsARewrittenLog", "audit.TestWitnessed", "audit.TestProcessesDontFork"}},
	{"events that never happened, by the owner of file and key", 3, "they have no signatures by people, and don't pass",
		[]string{"audit.TestForgery", "audit.TestWordsThatEnd", "audit.TestFilesOfTheDay"}},
	{"a certificate by the CA's stolen key opens a host, whose agent reports it", 3, "the report changes no request's history; that it came is on record, once, and a host can't fill the log with such",
		[]string{"audit.TestReport", "audit.TestRefusedReportsAreBounded", "audit.TestVerifyFindsForgedHostEvents"}},
	{"forged proof for an auditor", 3, "refused with the key alone",
		[]string{"audit.TestProofTampering", "audit.TestParseProofIsStrict", "audit.FuzzCheckProof"}},
	{"lines injected into logs", 3, "one event is one line, whatever is in it",
		[]string{"testsuite/attacks.TestNothingIsInjectedIntoLogs", "internal/plainjson.TestLog", "worker.TestTextLogIsSafeForTerminals", "cli.TestJSONIsSafe", "audit.TestWhyCannotSteerATerminal"}},
	{"secrets looked for in files, tables, logs, memory, core dumps and /proc of the stack", 4, "private keys never leave their owner; what Vault gives is sealed before it is kept, and a password is in the requester's memory alone",
		[]string{"testsuite/attacks.TestSecretsAreNowhereElse", "vault-rogue.txtar", "vault-run.txtar", "grant.TestSSHContract", "transport.TestSubmitTellsTemporalNothingPrivate", "sealed.TestOpenRefuses"}},
	{"what Vault gives opened by another requester, a second time, or after the end", 4, "sealed to one key; a wrapping token works once, and what was in it is dead",
		[]string{"testsuite/vaulttest/grants.TestUnwrapOnce", "audit.TestCheckSealed", "vault-tampered.txtar"}},
	{"symlinks, permissions and owners of files and folders", 4, "what others can write, or read where it is secret, is refused",
		[]string{"internal/trusted.TestModes", "internal/trusted.TestOwners", "internal/trusted.TestLinks", "internal/trusted.TestLinksInFoldersOthersCanWriteTo", "internal/trusted.TestFoldersAbove", "internal/trusted.TestPrivateGroup", "internal/trusted.TestPrivateGroupOfRoots", "internal/trusted.TestPrivateGroupWithAList", "internal/trusted.TestPrivateGroupWhereListsArentKnown", "internal/trusted.TestVolumeOfAConfigMap", "evidence.TestFilesOthersCanWrite", "worker.TestFilesOthersCanWrite", "reload.txtar", "cli.TestFolderOthersCanWriteTo", "cli.TestFolderOfSomebodyElse", "cli.TestFilesBehindSymlinks", "ca.TestOpenRefuses", "audit.TestFilesAreTheirOwnersAlone"}},
	{"terminal escape sequences in reasons, comments and errors", 4, "refused when signed, escaped when shown",
		[]string{"access.TestCheckText", "access.FuzzCheckText", "cli.TestEvilTextIsShownEscaped", "cli.TestPrintfEscapesEveryArgument", "bad-input.txtar"}},
	{"self-approval under another key, and under the name in another case or Unicode form", 5, "refused; names have one form",
		[]string{"testsuite/attacks.TestSelfApprovalInAnotherForm", "refuse.txtar", "evidence.TestHear", "access.TestCheckNames"}},
	{"one's own request approved through a delegate, or one person counted twice by delegations", 5, "refused; giver and delegate are one person",
		[]string{"delegate.txtar", "evidence.TestJudgeThroughDelegations", "evidence.TestCheckDelegation"}},
	{"approval replayed on another request, on an edited one, or twice", 5, "it covers the hash of one exact request, once",
		[]string{"testsuite/attacks.TestApprovalReplayed", "testsuite/attacks.TestForgedApprovals", "signals.txtar", "rogue.txtar", "evidence.TestJudge", "evidence.TestHear"}},
	{"an approver is shown something else than what is signed", 5, "the client shows the signed bytes",
		[]string{"cli.TestApproveRefusesATamperedRequest", "cli.TestServiceThatLies", "transport.TestStatusOfAnotherRequest"}},
	{"signals of any shape by a plain Temporal client", 6, "nothing changes, and the workflow goes on",
		[]string{"signals.txtar", "workflows.TestHostileSignals", "workflows.TestFlood"}},
	{"payloads like bombs: huge, deep, compressed, aliases in YAML", 6, "bounded before they are parsed; nothing is unpacked",
		[]string{"testsuite/attacks.TestMessagesLikeBombs", "service.TestPostsLikeBombs", "internal/yamlfile.TestParseRefuses", "policy.TestParseBounds", "catalog.TestParseBounds", "policy.TestExpensiveConditionDenies"}},
	{"a KMS that refuses, is away, or signs with another version of the key", 6, "the issuer waits and says why; such a signature goes nowhere",
		[]string{"kms.TestClouds", "ca.TestAgentSaysWhy", "worker.TestHealthOfAnIssuerWithoutItsKey"}},
	{"path traversal in names", 6, "no name has a slash or begins with a dot",
		[]string{"testsuite/attacks.TestForgedRequests", "testsuite/attacks.TestWorkflowIDAgain", "access.TestCheckNames", "access.TestCheckPath"}},
	{"root on one host, or who has a join token, floods the service with renewals, reports and tokens", 6, "it is told to come back later; nobody can have another host turned away",
		[]string{"service.TestTooManyRenewals", "service.TestTooManyReports", "service.TestReportsAtTheSameMoment", "service.TestTokenSentOverAndOver"}},
}

// Script is the name of an end-to-end script among the tests, "" for a test.
func Script(test string) string {
	name, ok := strings.CutSuffix(test, ".txtar")
	if !ok {
		return ""
	}
	return name
}

// Table is the table in docs/design/threat-model.md.
func Table() string {
	var s strings.Builder
	s.WriteString("| attack | promise | what happens | tests |\n|---|---|---|---|\n")
	for _, a := range All {
		fmt.Fprintf(&s, "| %s | %d | %s | `%s` |\n", a.Name, a.Promise, a.What, strings.Join(a.Tests, "` `"))
	}
	return s.String()
}
