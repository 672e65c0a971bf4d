// The profile of a Thunderbird under test. Only what keeps it from asking and from the world outside; how it speaks to
// servers is as it was installed.
user_pref("marionette.port", 0);
// Whatever a server is called, it is here.
user_pref("network.dns.forceResolve", "@ADDRESS@");
user_pref("network.dns.disableIPv6", true);
user_pref("mail.provider.suppress_dialog_on_startup", true);
user_pref("mail.shell.checkDefaultClient", false);
user_pref("mail.spotlight.firstRunDone", true);
user_pref("mail.rights.version", 1);
user_pref("mailnews.start_page.enabled", false);
user_pref("mailnews.start_page_override.mstone", "ignore");
user_pref("mail.biff.show_alert", false);
user_pref("mail.biff.play_sound", false);
user_pref("mail.chat.enabled", false);
user_pref("app.update.enabled", false);
user_pref("app.donation.eoy.version.viewed", 999);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("services.settings.server", "data:,#off");
// The dialogues with submission, in its console.
user_pref("mailnews.smtp.loglevel", "All");
