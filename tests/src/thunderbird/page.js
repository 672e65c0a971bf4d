// What the test has done inside of Thunderbird: each function is one thing that a person does or sees.
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");

// Whatever a person would have been bothered with.
const troubles = [];
// What is being sent or saved: what became of it, step by step.
const posts = new Map();
let account, inbox;

async function until(what, condition) {
  for (const end = Date.now() + 50000; Date.now() < end; ) {
    const found = condition();
    if (found) return found;
    await new Promise(passed => setTimeout(passed, 20));
  }
  throw new Error(`not yet ${what}: ${JSON.stringify([[...posts], inbox && subjects(), troubles])}`);
}

// Every window, every dialog in a window, every alert and every certificate that is not believed.
function watch() {
  Services.ww.registerNotification((win, topic) => {
    if (topic == "domwindowopened") {
      win.addEventListener("load", () => troubles.push(`window ${win.document.documentURI}`), { once: true });
    }
  });
  Services.obs.addObserver(dialog => {
    troubles.push(`dialog ${dialog.document.documentElement.textContent.trim()}`);
  }, "common-dialog-loaded");
  MailServices.mailSession.addUserFeedbackListener({
    QueryInterface: ChromeUtils.generateQI(["nsIMsgUserFeedbackListener"]),
    onAlert: message => !!troubles.push(`alert ${message}`),
    onCertError: (info, uri) => troubles.push(`certificate ${uri.spec}: ${info?.errorCodeString}`),
  });
}

async function remember(origin, user, password) {
  const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
  login.init(origin, null, origin, user, password, "", "");
  await Services.logins.addLoginAsync(login);
}

// The account of somebody who ticked "remember" and believes this authority, and its inbox on the screen.
async function begin({ host, imaps, submissions, user, password, address, authority }) {
  watch();
  const certificate = authority.replace(/-----[A-Z ]+-----|\s/g, "");
  Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB).addCertFromBase64(certificate, "C,,");
  await remember(`imap://${host}`, user, password);
  await remember(`smtp://${host}`, user, password);
  const outgoing = MailServices.outgoingServer.createServer("smtp").QueryInterface(Ci.nsISmtpServer);
  const incoming = MailServices.accounts.createIncomingServer(user, host, "imap");
  Object.assign(outgoing, { hostname: host, port: submissions, username: user });
  incoming.port = imaps;
  for (const server of [outgoing, incoming]) {
    server.socketType = Ci.nsMsgSocketType.SSL;
    server.authMethod = Ci.nsMsgAuthMethod.passwordCleartext;
  }
  MailServices.outgoingServer.defaultServer = outgoing;
  account = MailServices.accounts.createAccount();
  const identity = MailServices.accounts.createIdentity();
  account.incomingServer = incoming;
  account.addIdentity(identity);
  Object.assign(identity, { email: address, smtpServerKey: outgoing.key, doFcc: true });
  identity.fccFolderURI = `${incoming.serverURI}/Sent`;
  identity.draftsFolderURI = `${incoming.serverURI}/Drafts`;
  MailServices.accounts.defaultAccount = account;
  incoming.performExpand(null);
  inbox = await until("an inbox", () => incoming.rootFolder.getFolderWithFlags(Ci.nsMsgFolderFlags.Inbox));
  window.gTabmail.currentAbout3Pane.displayFolder(inbox.URI);
}

const messages = () => [...inbox.messages];
const subjects = () => messages().map(message => message.mime2DecodedSubject);
const find = subject => messages().find(message => message.mime2DecodedSubject == subject);

// Waits until the inbox shows it.
async function shows(subject) {
  await until(`there: ${subject}`, () => find(subject));
}

// Marks it as read, which the screen shows at once and the server hears of.
function read(subject) {
  inbox.markMessagesRead([find(subject)], true);
}

// Begins to send a message with a copy for Sent, or to save it among the drafts.
function post(mode, to, subject) {
  const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
  const identity = account.defaultIdentity;
  Object.assign(fields, { from: identity.email, to, subject });
  const steps = [];
  posts.set(subject, steps);
  const listener = {
    QueryInterface: ChromeUtils.generateQI(["nsIMsgSendListener", "nsIMsgCopyServiceListener"]),
    onStartSending() {},
    onSendProgress() {},
    onStatus() {},
    onGetDraftFolderURI() {},
    onSendNotPerformed: () => steps.push("not sent"),
    onTransportSecurityError: () => steps.push("not trusted"),
    onStopSending: (id, status) => steps.push(`sent ${status}`),
    onStartCopy() {},
    onProgress() {},
    setMessageKey() {},
    getMessageId: () => null,
    onStopCopy: status => steps.push(`copied ${status}`),
  };
  const send = Cc["@mozilla.org/messengercompose/send;1"].createInstance(Ci.nsIMsgSend);
  send.createAndSendMessage(null, identity, account.key, fields, false, false, Ci.nsIMsgCompDeliverMode[mode], null,
    "text/plain", `${subject}\r\n`, null, null, listener, null, null, Ci.nsIMsgCompType.New)
    .catch(error => steps.push(`failed ${error}`));
}

// Waits until there is no more to come of it: how it went.
async function posted(subject) {
  const steps = posts.get(subject);
  return until(`posted: ${subject}`, () => steps.some(step => !step.startsWith("sent 0")) && steps);
}

// What its console has: every line, the dialogues with submission among them.
function log() {
  const storage = Cc["@mozilla.org/consoleAPI-storage;1"].getService(Ci.nsIConsoleAPIStorage);
  const said = storage.getEvents().map(event => `${event.level} ${event.prefix}: ${event.arguments.join(" ")}`);
  return [...Services.console.getMessageArray().map(String), ...said];
}

return { begin, subjects, shows, read, post, posted, log, troubles: () => troubles };
