//! AUTH: PLAIN and LOGIN, XOAUTH2 and OAUTHBEARER with the store's password for a token.
//!
//! Rule: 535 only for a wrong password; a platform that admits nobody says 454 (RFC 4954 §6).

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::session::Session;
use crate::fake::{knobs::Reaction, platform::Denied};

/// RFC 5321 §4.5.3.1.4, without `AUTH ` and CRLF.
const COMMAND: usize = 505;
const WRONG: &str = "535 5.7.8 who are you";

impl Session {
    pub(super) async fn auth(&mut self, args: &str) -> io::Result<String> {
        if !self.offers_auth() || !self.greeted || self.peer.user.is_some() || self.transaction.open() {
            self.violation("AUTH at the wrong time");
            return Ok("503 5.5.1 not now".into());
        }
        let (mechanism, initial) = args.split_once(' ').unwrap_or((args, ""));
        let mechanism = mechanism.to_ascii_uppercase();
        if !self.options().mechanisms.contains(&mechanism) {
            self.violation(&format!("AUTH {mechanism} was not offered"));
            return Ok("504 5.5.4 no such mechanism".into());
        }
        if args.len() > COMMAND {
            self.violation("AUTH that is longer than a command");
        }
        let initial = (!initial.is_empty()).then_some(initial);
        let answer = match mechanism.as_str() {
            "LOGIN" => self.auth_login(initial).await?,
            "PLAIN" => self.auth_plain(initial).await?,
            _ => self.auth_bearer(initial).await?,
        };
        Ok(answer.unwrap_or_else(|refusal| refusal))
    }

    async fn auth_plain(&mut self, initial: Option<&str>) -> io::Result<Result<String, String>> {
        let response = match self.response(initial, "").await? {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let parts: Vec<_> = response.split(|b| *b == 0).map(String::from_utf8_lossy).collect();
        let [authzid, authcid, password] = parts.as_slice() else {
            return Ok(Err("501 5.5.2 not PLAIN".into()));
        };
        Ok(self.sign_in(authzid, authcid, password))
    }

    async fn auth_login(&mut self, initial: Option<&str>) -> io::Result<Result<String, String>> {
        let user = match self.response(initial, "Username:").await? {
            Ok(user) => user,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let password = match self.response(None, "Password:").await? {
            Ok(password) => password,
            Err(refusal) => return Ok(Err(refusal)),
        };
        Ok(self.sign_in("", &String::from_utf8_lossy(&user), &String::from_utf8_lossy(&password)))
    }

    /// `user=…` (XOAUTH2) or `n,a=…,` (RFC 7628), and `auth=Bearer …`, between control-As.
    async fn auth_bearer(&mut self, initial: Option<&str>) -> io::Result<Result<String, String>> {
        let response = match self.response(initial, "").await? {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let text = String::from_utf8_lossy(&response);
        let field =
            |name: &str| text.split([',', '\x01']).find_map(|f| f.strip_prefix(name)).unwrap_or_default();
        let user = if text.starts_with("n,") { field("a=") } else { field("user=") };
        let answer = self.sign_in("", user, field("auth=Bearer "));
        if answer.as_ref().is_err_and(|refusal| refusal == WRONG) {
            // The client answers what went wrong with an empty response before it hears the reply.
            self.challenge("{\"status\":\"401\"}").await?;
        }
        Ok(answer)
    }

    /// The initial response, or what the client answers to a challenge.
    async fn response(
        &mut self,
        initial: Option<&str>,
        challenge: &str,
    ) -> io::Result<Result<Vec<u8>, String>> {
        let response = match initial {
            Some("=") => return Ok(Ok(Vec::new())),
            Some(initial) => initial.as_bytes().to_vec(),
            None => self.challenge(challenge).await?,
        };
        if response == b"*" {
            return Ok(Err("501 5.7.0 cancelled".into()));
        }
        Ok(STANDARD.decode(&response).map_err(|_| "501 5.5.2 not base64".into()))
    }

    async fn challenge(&mut self, text: &str) -> io::Result<Vec<u8>> {
        self.answer(&format!("334 {}", STANDARD.encode(text)), &Reaction::default()).await?;
        self.wire.line().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn sign_in(&mut self, authzid: &str, authcid: &str, password: &str) -> Result<String, String> {
        match self.shared.sign_in(&self.platform, authzid, authcid, password) {
            Ok((user, _)) => {
                self.wire.recorder.known_as(&user);
                self.peer.user = Some(user);
                Ok("235 2.7.0 logged in".into())
            }
            Err(Denied::Unavailable) => Err("454 4.7.0 not now".into()),
            Err(Denied::NotMaster | Denied::Unknown) => Err(WRONG.into()),
        }
    }
}
