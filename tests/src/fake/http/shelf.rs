//! What a web platform has: effects in their order, and resources.
//!
//! Rule: nothing is forgotten; a resource's ETag changes with every PUT.

use std::{collections::BTreeMap, sync::Mutex};

use tokio::sync::watch;

use super::{lock, message::Head};

/// What a POST left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The server that took it.
    pub server: &'static str,
    /// What was asked for.
    pub target: String,
    /// Its body.
    pub body: Vec<u8>,
}

/// One platform's store.
#[derive(Debug, Default)]
pub struct Shelf {
    effects: Mutex<Vec<Effect>>,
    resources: Mutex<BTreeMap<String, Resource>>,
    /// In their order, from number 1 on.
    news: Mutex<Vec<String>>,
    /// Changes with them; true: there will be no more.
    published: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
enum Resource {
    Collection,
    File { version: u64, body: Vec<u8>, puts: usize },
}

/// A status with fields and a body.
pub(super) type Said = (u16, String, Vec<u8>);

fn said(status: u16) -> Said {
    (status, String::new(), Vec::new())
}

impl Shelf {
    /// What was posted.
    pub fn effects(&self) -> Vec<Effect> {
        lock(&self.effects).clone()
    }

    /// What was posted since it was asked last.
    pub fn take_effects(&self) -> Vec<Effect> {
        std::mem::take(&mut *lock(&self.effects))
    }

    /// How often a resource was put since it was made.
    pub fn puts(&self, path: &str) -> usize {
        match lock(&self.resources).get(path) {
            Some(Resource::File { puts, .. }) => *puts,
            Some(Resource::Collection) | None => 0,
        }
    }

    /// A resource's body.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        match lock(&self.resources).get(path)? {
            Resource::File { body, .. } => Some(body.clone()),
            Resource::Collection => None,
        }
    }

    /// One more piece of news; returns its number.
    pub fn publish(&self, text: &str) -> usize {
        let mut news = lock(&self.news);
        news.push(text.to_owned());
        self.published.send_modify(|_| {});
        news.len()
    }

    /// Streams of news end when everything is told.
    pub fn end_news(&self) {
        self.published.send_replace(true);
    }

    /// The news after this number.
    pub(super) fn news(&self, after: usize) -> Vec<String> {
        lock(&self.news).get(after..).unwrap_or_default().to_vec()
    }

    pub(super) fn are_over(&self) -> bool {
        *self.published.borrow()
    }

    pub(super) fn published(&self) -> watch::Receiver<bool> {
        self.published.subscribe()
    }

    pub(super) fn carry_out(&self, server: &'static str, head: &Head, body: Vec<u8>) -> Said {
        let path = head.target.split('?').next().unwrap_or_default().to_owned();
        match head.method.as_str() {
            "POST" | "PATCH" => {
                lock(&self.effects).push(Effect { server, target: head.target.clone(), body });
                (201, String::new(), server.into())
            }
            "PUT" => self.put(path, head, body),
            "DELETE" => said(if lock(&self.resources).remove(&path).is_some() { 204 } else { 404 }),
            "MKCOL" => {
                let mut resources = lock(&self.resources);
                if resources.contains_key(&path) {
                    return said(405);
                }
                resources.insert(path, Resource::Collection);
                said(201)
            }
            "PROPFIND" => match lock(&self.resources).get(&path) {
                Some(Resource::Collection) => {
                    (207, String::new(), b"<resourcetype><collection/></resourcetype>".into())
                }
                Some(Resource::File { .. }) => (207, String::new(), b"<resourcetype/>".into()),
                None => said(404),
            },
            "GET" | "HEAD" => match lock(&self.resources).get(&path) {
                Some(Resource::File { version, body, .. }) => {
                    (200, format!("ETag: \"{version}\"\r\n"), body.clone())
                }
                Some(Resource::Collection) => said(200),
                None if path.starts_with("/dav/") => said(404),
                None => {
                    (200, format!("X-Server: {server}\r\n"), format!("{server} {}", head.target).into_bytes())
                }
            },
            _ => (200, String::new(), server.into()),
        }
    }

    fn put(&self, path: String, head: &Head, body: Vec<u8>) -> Said {
        let mut resources = lock(&self.resources);
        let now = match resources.get(&path) {
            Some(Resource::File { version, puts, .. }) => Some((*version, *puts)),
            Some(Resource::Collection) => return said(405),
            None => None,
        };
        let is = |tag: &str| now.is_some_and(|(version, _)| tag == format!("\"{version}\""));
        let holds = head.field("if-match").is_none_or(is)
            && head.field("if-none-match").is_none_or(|tag| tag != "*" || now.is_none());
        if !holds {
            return said(412);
        }
        let (version, puts) = now.map_or((1, 1), |(version, puts)| (version + 1, puts + 1));
        resources.insert(path, Resource::File { version, body, puts });
        (if puts == 1 { 201 } else { 204 }, format!("ETag: \"{version}\"\r\n"), Vec::new())
    }
}
