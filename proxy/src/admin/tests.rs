//! The API, its client and the commands together, against a scripted appliance.
