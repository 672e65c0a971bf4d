//! Every default with its reason.
//!
//! Rule: a number that an operator may change stands here and nowhere else.
